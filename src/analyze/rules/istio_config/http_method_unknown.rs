//! ISTIO226.

use crate::model::json::json;

use crate::analyze::finding::{Confidence, Evidence, Finding, Role};
use crate::analyze::remedy::{Prevention, Remedy, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::text;
use crate::model::fields::Fields;
use crate::model::object::Object;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// An AuthorizationPolicy names an HTTP method that no request has.
    ///
    /// ## What it detects
    /// Entries of `methods` and `notMethods` that are no method of HTTP, with or without a wildcard. Methods are
    /// upper case, and Istio compares them as they are.
    /// ## Why it matters
    /// A rule for `get` matches no request: what it allows is denied, what it denies is allowed.
    /// ## Evidence
    /// The entry.
    /// ## How to confirm
    /// A request with the method is answered as if the rule were not there.
    /// ## How to fix
    /// Write the method in capitals.
    /// ## False positives
    /// A method of an extension of HTTP, such as those of WebDAV, which are known here, or one of your own.
    /// ## References
    /// <https://istio.io/latest/docs/reference/config/security/authorization-policy/#Operation>
    HttpMethodUnknown {
        code: "ISTIO226", name: "http-method-unknown", family: Mesh, severity: Warning,
        needs: [Istio], aliases: ["KIA0102"],
    }
}

/// Methods of RFC 9110, of PATCH (RFC 5789) and of WebDAV (RFC 4918).
const METHODS: &[&str] = &[
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "DELETE",
    "CONNECT",
    "OPTIONS",
    "TRACE",
    "PATCH",
    "PROPFIND",
    "PROPPATCH",
    "MKCOL",
    "COPY",
    "MOVE",
    "LOCK",
    "UNLOCK",
    "REPORT",
    "SEARCH",
    "PURGE",
];

/// A method that no request has.
#[derive(Debug)]
pub struct Fact<'a> {
    object: &'a Object,
    path: String,
    method: &'a str,
}

impl Check for HttpMethodUnknown {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out = vec![];
        for policy in
            snapshot.istio.authorization_policies.iter().filter(|p| snapshot.in_scope(p.object.namespace()))
        {
            for (rule, entry) in policy.object.body.list("spec.rules").iter().enumerate() {
                for (to, target) in entry.list("to").iter().enumerate() {
                    for field in ["methods", "notMethods"] {
                        for (at, method) in target.list(&format!("operation.{field}")).iter().enumerate() {
                            let Some(method) = method.as_str().filter(|method| !known(method)) else {
                                continue;
                            };
                            let path = format!("spec.rules[{rule}].to[{to}].operation.{field}[{at}]");
                            out.push(Fact { object: &policy.object, path, method });
                        }
                    }
                }
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let own = &fact.object.reference;
        let subject = own.field(&fact.path);
        let method = text::plain(fact.method, 40);
        let upper = fact.method.to_ascii_uppercase();
        let fix = known(&upper).then(|| {
            let operations = json!([{"op": "replace", "path": pointer(&fact.path), "value": upper}]);
            Remedy::patch(fact.object, &operations, format!("Write {upper}"))
        });
        Finding::new(Self::META, subject.clone(), &[])
            .title(format!("{own} has a rule for method {method}, which no request has"))
            .message(format!(
                "Methods of HTTP are upper case and compared as they are: nothing matches {method}."
            ))
            .mechanism("AuthorizationPolicy with an unknown HTTP method")
            .role(Role::Context, Confidence::Configured)
            .evidence(Evidence::object(&subject, format!("method {method}")))
            .maybe_remedy(fix.flatten())
            .remedy(Remedy::manual("Write a method of HTTP in capitals"))
            .prevention(Prevention::of(
                "Test",
                "After each change ask once with the method that the rule is for",
            ))
    }
}

fn known(method: &str) -> bool {
    match (method.strip_prefix('*'), method.strip_suffix('*')) {
        (Some(suffix), _) => METHODS.iter().any(|known| known.ends_with(suffix)),
        (None, Some(prefix)) => METHODS.iter().any(|known| known.starts_with(prefix)),
        (None, None) => METHODS.contains(&method),
    }
}
