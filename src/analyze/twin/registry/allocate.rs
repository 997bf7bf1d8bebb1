//! Addresses that the mesh's own name server gives to hosts of ServiceEntries that have none.
//!
//! Newer control planes write them into the ServiceEntry's status; others compute them from the host's name alone: a hash
//! picks one of 65,024 places, and a place that is taken is left by double hashing (Istio's service entry registry).

use core::net::{IpAddr, Ipv4Addr};
use std::collections::{BTreeMap, HashMap};

use super::{Host, Resolution};

/// Places in 240.240.0.0/16, without the addresses that end in 255.
const PLACES: u32 = 65_024;
/// The largest prime below it that the control plane takes for the second hash.
const PRIME: u32 = 65_011;

/// Fills in the addresses that are computed.
pub(super) fn addresses(hosts: &mut [Host<'_>]) {
    let mut places: BTreeMap<u32, usize> = BTreeMap::new();
    for (at, host) in hosts.iter().enumerate() {
        if !needs_one(host) || places.len() as u64 >= u64::from(PLACES) {
            continue;
        }
        let hash = fnv1a(&key(host));
        let mut place = hash % PLACES;
        let step = PRIME - hash % PRIME;
        let mut tries: u32 = 0;
        while places.contains_key(&place) && tries < PLACES {
            tries += 1;
            place = hash.wrapping_add(tries.wrapping_mul(step)) % (PLACES - 1);
        }
        places.insert(place, at);
    }
    // Hosts of one name in one namespace share the address of the first place.
    let mut known: HashMap<String, IpAddr> = HashMap::new();
    for (place, at) in places {
        let Some(host) = hosts.get_mut(at) else { continue };
        let mut x = place + 1;
        if x % 255 == 0 {
            x += 1;
        }
        let (third, fourth) =
            (u8::try_from(x / 255).unwrap_or(u8::MAX), u8::try_from(x % 255).unwrap_or(u8::MAX));
        let address = *known.entry(key(host)).or_insert(IpAddr::V4(Ipv4Addr::new(240, 240, third, fourth)));
        host.allocated = Some(address);
    }
}

fn needs_one(host: &Host<'_>) -> bool {
    matches!(host.origin, super::Origin::Entry(_))
        && host.addresses.is_empty()
        && host.allocated.is_none()
        && !host.is_wildcard()
        && host.resolution != Resolution::Original
}

fn key(host: &Host<'_>) -> String {
    format!("{}/{}", host.namespace, host.name)
}

/// The 32-bit FNV-1a hash.
fn fnv1a(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}
