//! Ranges of addresses, as policies write them.

use core::net::IpAddr;

/// A range of addresses: `10.0.0.0/8`, `fd00::/8`, or one address alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    base: IpAddr,
    /// Leading bits that count.
    bits: u32,
}

impl Cidr {
    /// Reads a range; an address without a length is itself alone. `None` where it cannot be read.
    pub fn parse(text: &str) -> Option<Self> {
        let (base, bits) = match text.trim().split_once('/') {
            Some((base, bits)) => (base.parse::<IpAddr>().ok()?, Some(bits.parse::<u32>().ok()?)),
            None => (text.trim().parse::<IpAddr>().ok()?, None),
        };
        let width = if base.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(width);
        (bits <= width).then_some(Cidr { base, bits })
    }

    /// Whether an address lies in it. An IPv4 address that is written as IPv6 (`::ffff:10.0.0.1`) counts as IPv4.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.base, ip.to_canonical()) {
            (IpAddr::V4(base), IpAddr::V4(ip)) => {
                let shift = 32u32.saturating_sub(self.bits);
                u32::from(base).checked_shr(shift) == u32::from(ip).checked_shr(shift)
            }
            (IpAddr::V6(base), IpAddr::V6(ip)) => {
                let shift = 128u32.saturating_sub(self.bits);
                u128::from(base).checked_shr(shift) == u128::from(ip).checked_shr(shift)
            }
            _ => false,
        }
    }

    /// Whether an address is of its family.
    pub fn same_family(&self, ip: IpAddr) -> bool {
        self.base.is_ipv4() == ip.to_canonical().is_ipv4()
    }

    /// Whether it holds every address of its family.
    pub fn is_all(&self) -> bool {
        self.bits == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lies(block: &str, ip: &str) -> bool {
        Cidr::parse(block).unwrap().contains(ip.parse().unwrap())
    }

    #[test]
    fn addresses_lie_in_ranges() {
        assert!(lies("10.0.0.0/8", "10.1.2.3"));
        assert!(!lies("10.0.0.0/16", "10.1.2.3"));
        assert!(lies("0.0.0.0/0", "192.0.2.1"));
        assert!(lies("fd00::/8", "fd12::1"));
        assert!(!lies("0.0.0.0/0", "fd12::1"));
        assert!(!lies("::/0", "192.0.2.1"));
        assert!(lies("10.0.0.1", "10.0.0.1") && !lies("10.0.0.1", "10.0.0.2"));
        assert!(lies("10.0.0.0/8", "::ffff:10.1.2.3"));
    }

    #[test]
    fn what_is_no_range_is_none() {
        for text in ["", "10.0.0.0/33", "10.0.0/8", "fd00::/129", "a/8", "10.0.0.0/-1", "10.0.0.0/8/8"] {
            assert_eq!(Cidr::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_range_holds_exactly_the_addresses_that_share_its_bits(base: u32, ip: u32, bits in 0u32..=32) {
            let text = format!("{}/{bits}", core::net::Ipv4Addr::from(base));
            let mask = if bits == 0 { 0 } else { u32::MAX << (32 - bits) };
            let inside = Cidr::parse(&text).unwrap().contains(core::net::Ipv4Addr::from(ip).into());
            prop_assert_eq!(inside, base & mask == ip & mask);
        }
    }
}
