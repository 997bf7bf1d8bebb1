//! `/certs`: the certificates that a proxy holds.

use crate::model::json::Value;
use jiff::Timestamp;

use crate::model::fields::Fields;

/// One certificate.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Certificate {
    /// Whether it is one that the proxy trusts, rather than its own.
    pub authority: bool,
    /// Its serial number, in hexadecimal.
    pub serial: String,
    /// The names that it is for: `spiffe://…`, DNS names, addresses.
    pub names: Vec<String>,
    /// From when it is valid.
    pub valid_from: Option<Timestamp>,
    /// Until when.
    pub expires: Option<Timestamp>,
}

/// All certificates, each once.
pub(super) fn read(body: &Value) -> Vec<Certificate> {
    let mut certificates: Vec<Certificate> = vec![];
    for entry in body.list("certificates") {
        for (field, authority) in [("ca_cert", true), ("cert_chain", false)] {
            certificates.extend(entry.list(field).iter().map(|one| certificate(one, authority)));
        }
    }
    certificates.sort();
    certificates.dedup();
    certificates
}

fn certificate(body: &Value, authority: bool) -> Certificate {
    let names = body.list("subject_alt_names").iter();
    let name = |name: &Value| {
        ["uri", "dns", "ip_address"].iter().find_map(|field| name.text(field)).map(str::to_owned)
    };
    Certificate {
        authority,
        serial: body.string("serial_number"),
        names: names.filter_map(name).collect(),
        valid_from: body.time("valid_from"),
        expires: body.time("expiration_time"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::json;

    #[test]
    fn the_same_certificate_on_every_cluster_is_one() {
        let own = json!({"serial_number": "a1", "subject_alt_names": [{"uri": "spiffe://x/ns/a/sa/b"}],
            "valid_from": "2026-11-22T02:58:07Z", "expiration_time": "2026-11-23T03:00:07Z"});
        let one = json!({"ca_cert": [{"serial_number": "f5", "expiration_time": "2036-11-19T01:28:39Z"}], "cert_chain": [own]});
        let found = read(&json!({"certificates": [one, one, {"cert_chain": [{"expiration_time": "soon"}]}]}));
        assert_eq!(found.len(), 3);
        assert!(found[0].expires.is_none() && found[2].authority);
        assert_eq!(found[1].names, ["spiffe://x/ns/a/sa/b"]);
    }
}
