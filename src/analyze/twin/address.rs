//! Addresses and blocks of them.

use core::net::IpAddr;

/// A block of addresses: `10.0.0.0/8`, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Block {
    v6: bool,
    /// The address, its bits outside the block cleared.
    network: u128,
    /// The length of the prefix.
    bits: u32,
}

impl Block {
    /// Reads `10.0.0.0/8`, `10.0.0.1` or the same of IPv6; bits outside the block are disregarded.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse::<u32>().ok()?)),
            None => (text, None),
        };
        let address: IpAddr = address.trim().parse().ok()?;
        let width = width(address);
        let bits = bits.unwrap_or(width);
        if bits > width {
            return None;
        }
        Some(Block { v6: address.is_ipv6(), network: masked(value(address), bits, width), bits })
    }

    /// Whether an address lies in it.
    pub fn contains(&self, ip: IpAddr) -> bool {
        ip.is_ipv6() == self.v6 && masked(value(ip), self.bits, width(ip)) == self.network
    }

    /// The length of its prefix.
    pub fn bits(&self) -> u32 {
        self.bits
    }

    /// The address, where it is just one.
    pub fn single(&self) -> Option<IpAddr> {
        match (self.v6, self.bits) {
            (true, 128) => Some(IpAddr::from(self.network.to_be_bytes())),
            (false, 32) => {
                u32::try_from(self.network).ok().map(|network| IpAddr::from(network.to_be_bytes()))
            }
            _ => None,
        }
    }
}

fn width(ip: IpAddr) -> u32 {
    if ip.is_ipv4() { 32 } else { 128 }
}

fn value(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u32::from(ip).into(),
        IpAddr::V6(ip) => ip.into(),
    }
}

fn masked(value: u128, bits: u32, width: u32) -> u128 {
    let free = width.saturating_sub(bits);
    value.checked_shr(free).unwrap_or(0).checked_shl(free).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks() {
        let block = Block::parse("10.1.2.3/8").unwrap();
        assert_eq!(Some(block), Block::parse("10.0.0.0/8"));
        assert!(
            block.contains("10.255.0.1".parse().unwrap()) && !block.contains("11.0.0.1".parse().unwrap())
        );
        assert!(Block::parse("0.0.0.0/0").unwrap().contains("1.2.3.4".parse().unwrap()));
        assert!(Block::parse("1234:1f1::/32").unwrap().contains("1234:1f1:1::1".parse().unwrap()));
        assert_eq!(Block::parse("1.2.3.4").unwrap().single(), "1.2.3.4".parse().ok());
        assert_eq!(Block::parse("::1").unwrap().single(), "::1".parse().ok());
        assert_eq!((Block::parse("1.2.3.4/33"), Block::parse("a")), (None, None));
    }
}
