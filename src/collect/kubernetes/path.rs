//! Paths and queries of the Kubernetes API, with every variable part encoded.

use std::fmt::Write;

use super::served::Served;

/// Text as one segment of a path or one value of a query: RFC 3986 unreserved characters stay, all others are encoded.
pub fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            // Writing to a String does not fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// The path of a collection; `namespace` is `None` for kinds without one.
pub fn collection(served: &Served, namespace: Option<&str>) -> String {
    let root = if served.group.is_empty() {
        format!("/api/{}", served.version)
    } else {
        format!("/apis/{}/{}", served.group, served.version)
    };
    match namespace {
        Some(namespace) => format!("{root}/namespaces/{}/{}", encode(namespace), served.resource),
        None => format!("{root}/{}", served.resource),
    }
}

/// The path of one object.
pub fn object(served: &Served, namespace: Option<&str>, name: &str) -> String {
    format!("{}/{}", collection(served, namespace), encode(name))
}

/// A path with a query; pairs with an empty value are left out.
pub fn with_query(path: &str, pairs: &[(&str, String)]) -> String {
    let mut out = path.to_owned();
    let mut mark = '?';
    for (key, value) in pairs.iter().filter(|(_, value)| !value.is_empty()) {
        out.push(mark);
        out.push_str(key);
        out.push('=');
        out.push_str(&encode(value));
        mark = '&';
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leaves_its_segment() {
        let served = Served::new("apps", "v1", "deployments");
        assert_eq!(
            object(&served, Some("a/../b"), "x?watch=1#é"),
            "/apis/apps/v1/namespaces/a%2F..%2Fb/deployments/x%3Fwatch%3D1%23%C3%A9"
        );
        let query = [
            ("limit", "5".to_owned()),
            ("labelSelector", "a=b,c in (d)".to_owned()),
            ("continue", String::new()),
        ];
        assert_eq!(with_query("/p", &query), "/p?limit=5&labelSelector=a%3Db%2Cc%20in%20%28d%29");
    }

    #[test]
    fn the_core_group_has_a_path_of_its_own() {
        let nodes = Served::new("", "v1", "nodes");
        assert_eq!(collection(&nodes, None), "/api/v1/nodes");
    }
}
