//! Hostnames of listeners and routes: what they have in common, and which of them is closest to a host.

/// Whether a hostname (`a.b`, `*.b`, empty or `*` for any) covers a host. `*.b` stands for one or more labels before `.b`.
pub fn covers(hostname: &str, host: &str) -> bool {
    if hostname.is_empty() || hostname == "*" {
        return true;
    }
    match hostname.strip_prefix('*') {
        Some(suffix) => {
            host.len() > suffix.len()
                && host.get(host.len() - suffix.len()..).is_some_and(|tail| tail.eq_ignore_ascii_case(suffix))
        }
        None => hostname.eq_ignore_ascii_case(host),
    }
}

/// What two hostnames have in common: the narrower one, where one lies in the other.
pub fn common(a: &str, b: &str) -> Option<String> {
    let any = |hostname: &str| hostname.is_empty() || hostname == "*";
    if any(a) {
        return Some(if any(b) { "*".to_owned() } else { b.to_ascii_lowercase() });
    }
    if any(b) {
        return Some(a.to_ascii_lowercase());
    }
    let (a, b) = (a.to_ascii_lowercase(), b.to_ascii_lowercase());
    match (a.strip_prefix('*'), b.strip_prefix('*')) {
        (Some(x), Some(y)) if x.ends_with(y) => Some(a),
        (Some(x), Some(y)) if y.ends_with(x) => Some(b),
        (Some(_), None) if covers(&a, &b) => Some(b),
        (None, Some(_)) if covers(&b, &a) => Some(a),
        (None, None) if a == b => Some(a),
        _ => None,
    }
}

/// The hostnames under which a listener serves a route; `*` alone where neither names one.
pub fn of_both(listener: &str, route: &[String]) -> Vec<String> {
    if route.is_empty() {
        return common(listener, "").into_iter().collect();
    }
    let mut out: Vec<String> = route.iter().filter_map(|own| common(listener, own)).collect();
    out.sort();
    out.dedup();
    out
}

/// How close a hostname that covers a host is to it: an exact one is closest, then the longest pattern, then any.
pub fn closeness(hostname: &str) -> (u8, usize) {
    match hostname {
        "" | "*" => (0, 0),
        pattern if pattern.starts_with('*') => (1, pattern.len()),
        exact => (2, exact.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_pattern_needs_a_label_before_it() {
        assert!(covers("*.b.c", "a.b.c") && covers("*.b.c", "x.a.B.c") && !covers("*.b.c", "b.c"));
        assert!(covers("", "a") && covers("a.b", "A.B") && !covers("a.b", "x.a.b"));
        assert_eq!(of_both("*.b", &["a.b".into(), "c".into(), "*.x.b".into()]), ["*.x.b", "a.b"]);
        assert_eq!(of_both("", &[]), ["*"]);
    }

    proptest! {
        /// What two hostnames have in common covers a host exactly where both do.
        #[test]
        fn what_is_common_covers_what_both_cover(
            a in "(|\\*\\.[ab](\\.[ab]){0,2}|[ab](\\.[ab]){0,3})",
            b in "(|\\*\\.[ab](\\.[ab]){0,2}|[ab](\\.[ab]){0,3})",
            host in "[ab](\\.[ab]){0,4}",
        ) {
            let both = covers(&a, &host) && covers(&b, &host);
            let shared = common(&a, &b).is_some_and(|hostname| covers(&hostname, &host));
            prop_assert_eq!(both, shared);
            prop_assert_eq!(common(&a, &b), common(&b, &a));
        }
    }
}
