//! Names that were probably meant: for a reference to something that does not exist, the existing name closest to it.

use crate::model::json::Value;

use crate::model::object::Object;

/// A name longer than this is none that the API server accepts; comparing costs the product of both lengths.
const MAX_NAME: usize = 253;

/// The candidate that was probably meant by `name`: another spelling of it, few letters differ, or one of the two is the
/// other with a further part (`checkout` and `checkout-v2`). `None` where two are equally close, or none is close.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let mut best: Option<(usize, &'a str)> = None;
    let mut tied = false;
    for candidate in candidates {
        if candidate == name || candidate.is_empty() {
            continue;
        }
        let Some(distance) = closeness(name, candidate) else { continue };
        match best {
            Some((least, known)) if distance == least && known != candidate => tied = true,
            Some((least, _)) if distance >= least => {}
            _ => {
                best = Some((distance, candidate));
                tied = false;
            }
        }
    }
    best.filter(|_| !tied).map(|(_, candidate)| candidate)
}

/// A name without what differs between spellings: `DB_HOST` and `db-host`.
fn plain(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

/// How far apart two names are, where they are close at all.
fn closeness(a: &str, b: &str) -> Option<usize> {
    if a.len() > MAX_NAME || b.len() > MAX_NAME {
        return None;
    }
    let (x, y) = (plain(a), plain(b));
    let shorter = x.len().min(y.len());
    if x == y && shorter > 0 {
        return Some(0);
    }
    let allowed = (shorter / 4).clamp(1, 3);
    // The difference in length alone is the least that two words differ in.
    if shorter > 2 && x.len().abs_diff(y.len()) <= allowed {
        let distance = edits(&x, &y);
        if distance <= allowed {
            return Some(distance);
        }
    }
    let extends = |long: &str, short: &str| {
        long.strip_prefix(short).is_some_and(|rest| rest.starts_with(['-', '.', '_']))
            || long.strip_suffix(short).is_some_and(|rest| rest.ends_with(['-', '.', '_']))
    };
    (extends(a, b) || extends(b, a)).then(|| 10 + a.len().abs_diff(b.len()))
}

/// Insertions, deletions, replacements and swaps of neighbours that turn one text into the other.
fn edits(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = vec![];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    let get = |row: &[usize], at: usize| row.get(at).copied().unwrap_or(usize::MAX / 2);
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let mut least =
                (get(&last, j) + usize::from(x != y)).min(get(&last, j + 1) + 1).min(get(&row, j) + 1);
            let swapped =
                i > 0 && j > 0 && a.get(i - 1) == Some(y) && b.get(j - 1) == Some(x) && !before.is_empty();
            if swapped {
                least = least.min(get(&before, j - 1) + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut last, row);
    }
    get(&last, b.len())
}

/// The value that a field had when somebody last applied the object with `kubectl apply`. Where it differs from the value
/// now, a later edit changed it, and this is what it was before.
pub fn applied(object: &Object, path: &str) -> Option<Value> {
    crate::model::change::applied(object)?.pointer(&crate::analyze::remedy::pointer(path)).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::json;

    #[test]
    fn the_closest_name_is_found_and_ties_are_none() {
        assert_eq!(nearest("paymnet", ["payment", "shipping"]), Some("payment"));
        assert_eq!(nearest("checkout-v2", ["checkout", "cart"]), Some("checkout"));
        assert_eq!(nearest("api.example.con", ["api.example.com", "a"]), Some("api.example.com"));
        assert_eq!(nearest("v3", ["v1", "v2"]), None);
        assert_eq!(nearest("cart", ["card", "care"]), None);
        assert_eq!(nearest("cart", ["shipping"]), None);
        assert_eq!(nearest("REGION", ["CLIENT_TIMEOUT", "STOCK_REGION"]), Some("STOCK_REGION"));
        assert_eq!(nearest("DB_HOST", ["DB-HOST", "DB_PORT"]), Some("DB-HOST"));
        assert_eq!(nearest("DB_HOST", ["DB_PORT"]), None);
        assert_eq!(nearest("timeout", ["timeuot"]), Some("timeuot"), "two neighbours that changed places");
        assert_eq!(nearest("API_KEY", ["API_KEYS"]), Some("API_KEYS"));
    }

    #[test]
    fn the_last_applied_value_is_read() {
        let object = Object::read(json!({"kind": "Service", "metadata": {"name": "a", "annotations":
            {"kubectl.kubernetes.io/last-applied-configuration": "{\"spec\":{\"ports\":[{\"targetPort\":8080}]}}"}}}))
        .unwrap();
        assert_eq!(applied(&object, "spec.ports[0].targetPort"), Some(json!(8080)));
        assert_eq!(applied(&object, "spec.selector"), None);
    }
}
