//! Which virtual host a Host header belongs to: the most specific domain wins.

use std::collections::HashMap;

/// The domains of a route table: exact ones, `*.suffix`, `prefix.*`, and `*`.
#[derive(Debug, Clone, Default)]
pub struct Domains {
    exact: HashMap<String, usize>,
    suffixes: HashMap<String, usize>,
    /// Distinct lengths of the suffixes, longest first.
    suffix_lengths: Vec<usize>,
    prefixes: HashMap<String, usize>,
    prefix_lengths: Vec<usize>,
    any: Option<usize>,
}

impl Domains {
    /// Adds a domain of the virtual host at a position. `false` where the domain was taken: Envoy rejects a table in which
    /// two virtual hosts have one domain.
    pub fn insert(&mut self, domain: &str, at: usize) -> bool {
        let domain = domain.to_ascii_lowercase();
        let (map, lengths, key) = if domain == "*" {
            if self.any.is_some() {
                return false;
            }
            self.any = Some(at);
            return true;
        } else if let Some(suffix) = domain.strip_prefix('*') {
            (&mut self.suffixes, Some(&mut self.suffix_lengths), suffix.to_owned())
        } else if let Some(prefix) = domain.strip_suffix('*') {
            (&mut self.prefixes, Some(&mut self.prefix_lengths), prefix.to_owned())
        } else {
            (&mut self.exact, None, domain)
        };
        if map.contains_key(&key) {
            return false;
        }
        if let Some(lengths) = lengths
            && let Err(place) = lengths.binary_search_by(|known| key.len().cmp(known))
        {
            lengths.insert(place, key.len());
        }
        map.insert(key, at);
        true
    }

    /// Whether a domain is taken.
    pub fn contains(&self, domain: &str) -> bool {
        let domain = domain.to_ascii_lowercase();
        if domain == "*" {
            return self.any.is_some();
        }
        match (domain.strip_prefix('*'), domain.strip_suffix('*')) {
            (Some(suffix), _) => self.suffixes.contains_key(suffix),
            (_, Some(prefix)) => self.prefixes.contains_key(prefix),
            _ => self.exact.contains_key(&domain),
        }
    }

    /// The virtual host of a host without port: an exact domain, else the longest suffix that leaves something before it,
    /// else the longest prefix that leaves something behind it, else `*`.
    pub fn find(&self, host: &str) -> Option<usize> {
        let host = host.to_ascii_lowercase();
        if let Some(at) = self.exact.get(&host) {
            return Some(*at);
        }
        let suffix = self
            .suffix_lengths
            .iter()
            .filter(|length| **length < host.len())
            .find_map(|length| host.get(host.len() - length..).and_then(|tail| self.suffixes.get(tail)));
        let prefix = || {
            self.prefix_lengths
                .iter()
                .filter(|length| **length < host.len())
                .find_map(|length| host.get(..*length).and_then(|head| self.prefixes.get(head)))
        };
        suffix.or_else(prefix).copied().or(self.any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn domains(list: &[&str]) -> Domains {
        let mut domains = Domains::default();
        for (at, domain) in list.iter().enumerate() {
            assert!(domains.insert(domain, at), "{domain}");
        }
        domains
    }

    #[test]
    fn the_most_specific_domain_wins() {
        let known = domains(&[
            "*",
            "*.example.com",
            "*.a.example.com",
            "x.a.example.com",
            "x.*",
            "x.a.*",
            "*-a.example.com",
        ]);
        let find = |host| known.find(host);
        assert_eq!(find("X.A.example.com"), Some(3));
        assert_eq!(find("y.a.example.com"), Some(2));
        assert_eq!(find("b.example.com"), Some(1));
        assert_eq!(find("b-a.example.com"), Some(6));
        assert_eq!(find("x.a.org"), Some(5));
        assert_eq!(find("x.b"), Some(4));
        assert_eq!(find(".example.com"), Some(0));
        assert_eq!(find("example.com"), Some(0));
        assert_eq!(domains(&["a"]).find("b"), None);
    }

    #[test]
    fn a_domain_is_taken_once() {
        let mut known = domains(&["a", "*.a", "*"]);
        assert!(!known.insert("A", 5) && !known.insert("*.a", 5) && !known.insert("*", 5));
        assert!(known.contains("*.A") && !known.contains("*.b"));
    }

    /// What the search must find, written down without any index.
    fn by_hand(list: &[String], host: &str) -> Option<usize> {
        let fits = |domain: &str| -> Option<(u8, usize)> {
            if domain == host {
                return Some((3, 0));
            }
            if domain == "*" {
                return Some((0, 0));
            }
            if let Some(suffix) = domain.strip_prefix('*') {
                return (host.ends_with(suffix) && host.len() > suffix.len()).then_some((2, suffix.len()));
            }
            let prefix = domain.strip_suffix('*')?;
            (host.starts_with(prefix) && host.len() > prefix.len()).then_some((1, prefix.len()))
        };
        let ranked = list.iter().enumerate().filter_map(|(at, domain)| Some((fits(domain)?, at)));
        ranked.max_by_key(|(rank, _)| *rank).map(|(_, at)| at)
    }

    proptest! {
        #[test]
        fn the_index_finds_what_a_walk_over_all_domains_finds(
            list in proptest::collection::btree_set("(\\*|\\*\\.[ab](\\.[ab]){0,2}|[ab](\\.[ab]){0,2}\\.\\*|[ab](\\.[ab]){0,3})", 0..12),
            host in "[ab](\\.[ab]){0,4}",
        ) {
            let list: Vec<String> = list.into_iter().collect();
            let mut known = Domains::default();
            for (at, domain) in list.iter().enumerate() {
                prop_assert!(known.insert(domain, at));
            }
            prop_assert_eq!(known.find(&host), by_hand(&list, &host));
        }
    }
}
