//! Paths: how the proxy normalises them before authorization looks, and the patterns that policies compare them with.

use crate::model::fields::Fields;
use crate::model::snapshot::Snapshot;

/// How paths are normalised, as `pathNormalization.normalization` of the MeshConfig says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Normalization {
    /// As they are.
    None,
    /// Dot segments are resolved, backslashes become slashes, escapes of plain characters are undone.
    Base,
    /// And slashes that follow each other become one.
    MergeSlashes,
    /// And before that, escaped slashes become slashes.
    DecodeAndMergeSlashes,
}

impl Normalization {
    /// Reads the field; what is absent or unknown is the default.
    pub fn read(text: Option<&str>) -> Self {
        match text {
            Some("NONE") => Normalization::None,
            Some("MERGE_SLASHES") => Normalization::MergeSlashes,
            Some("DECODE_AND_MERGE_SLASHES") => Normalization::DecodeAndMergeSlashes,
            _ => Normalization::Base,
        }
    }

    /// What the proxies of a mesh do.
    pub fn of(snapshot: &Snapshot) -> Self {
        Self::read(snapshot.istio.mesh_config.text("pathNormalization.normalization"))
    }

    /// The path with its query as it is passed on, where that is not as it came.
    pub fn changed(self, path: &str) -> Option<String> {
        let (bare, query) = path
            .split_once('?')
            .map_or((path, ""), |(bare, _)| (bare, path.get(bare.len()..).unwrap_or_default()));
        let normal = self.apply(bare);
        (normal != bare).then(|| format!("{normal}{query}"))
    }

    /// The path without query and fragment, normalised.
    pub fn apply(self, path: &str) -> String {
        let path = path.split(['?', '#']).next().unwrap_or_default();
        if self == Normalization::None {
            return path.to_owned();
        }
        let mut path = unescape(path, self == Normalization::DecodeAndMergeSlashes);
        path = dots(&path.replace('\\', "/"));
        if matches!(self, Normalization::MergeSlashes | Normalization::DecodeAndMergeSlashes) {
            while path.contains("//") {
                path = path.replace("//", "/");
            }
        }
        path
    }
}

/// Undoes the escapes of letters, digits and `-._~`, and of slashes where that is wanted.
fn unescape(path: &str, slashes: bool) -> String {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        let hex = after.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok()).map(char::from);
        let plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~');
        match hex.filter(|c| plain(c) || (slashes && matches!(c, '/' | '\\'))) {
            Some(c) => {
                out.push(c);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                out.push('%');
                rest = after;
            }
        }
    }
    out + rest
}

/// Resolves `.` and `..`.
fn dots(path: &str) -> String {
    let mut kept: Vec<&str> = vec![];
    let mut segments = path.split('/').peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." && kept.len() > 1 {
                    kept.pop();
                }
                // A path that ends in dots names a folder.
                if last {
                    kept.push("");
                }
            }
            _ => kept.push(segment),
        }
    }
    kept.join("/")
}

/// Whether a pattern with `{*}` for one segment or `{**}` for one or more of them, which may be empty, fits a path.
pub fn template_fits(pattern: &str, path: &str) -> bool {
    let pattern: Vec<&str> = pattern.split('/').collect();
    // How much of the pattern may be used up after each segment: as wide as the pattern, so that no path takes long.
    let mut open = vec![false; pattern.len() + 1];
    open.iter_mut().take(1).for_each(|first| *first = true);
    for segment in path.split('/') {
        let mut next = vec![false; open.len()];
        for ((at, own), _) in pattern.iter().enumerate().zip(&open).filter(|(_, open)| **open) {
            let (stays, moves) = match *own {
                "{**}" | "**" => (true, true),
                "{*}" | "*" => (false, !segment.is_empty()),
                plain => (false, plain == segment),
            };
            next.iter_mut().skip(at).take(1).for_each(|place| *place |= stays);
            next.iter_mut().skip(at + 1).take(1).for_each(|place| *place |= moves);
        }
        open = next;
    }
    open.last() == Some(&true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_are_normalised_as_the_mesh_says() {
        for (path, base, merged, decoded) in [
            ("/a/b?c=/d", "/a/b", "/a/b", "/a/b"),
            ("/a/./b/../c", "/a/c", "/a/c", "/a/c"),
            ("/a/..", "/", "/", "/"),
            ("/../..", "/", "/", "/"),
            ("/a\\b", "/a/b", "/a/b", "/a/b"),
            ("/%61dmin/%2e%2E/x", "/x", "/x", "/x"),
            ("/a//b", "/a//b", "/a/b", "/a/b"),
            ("/a%2Fb%5Cc", "/a%2Fb%5Cc", "/a%2Fb%5Cc", "/a/b/c"),
            ("/a%zz%", "/a%zz%", "/a%zz%", "/a%zz%"),
        ] {
            assert_eq!(Normalization::Base.apply(path), base);
            assert_eq!(Normalization::MergeSlashes.apply(path), merged);
            assert_eq!(Normalization::DecodeAndMergeSlashes.apply(path), decoded);
        }
        assert_eq!(Normalization::None.apply("/a/../b?c"), "/a/../b");
    }

    #[test]
    fn templates() {
        for (pattern, path, fits) in [
            ("/pay/{*}", "/pay/7", true),
            ("/pay/{*}", "/pay/7/x", false),
            ("/pay/{*}", "/pay/", false),
            ("/pay/{*}", "/pay", false),
            ("/pay/{**}/x", "/pay/7/8/x", true),
            ("/pay/{**}", "/pay/7/8", true),
            ("/pay/{**}/x", "/pay/7/8/y", false),
            ("/pay/{**}/x", "/pay/x", false),
            ("/pay/{**}", "/pay/", true),
            ("/pay/{**}", "/pay", false),
            ("/{*}/pay/{**}", "/v1/pay/7", true),
            ("/{*}/pay/{**}", "/pay/7", false),
        ] {
            assert_eq!(template_fits(pattern, path), fits, "{pattern} {path}");
        }
    }

    proptest! {
        #[test]
        fn a_path_of_any_length_is_judged_soon(segments in 0usize..3000, stars in 1usize..40) {
            let pattern = "/{**}/a".repeat(stars);
            let path = "/a".repeat(segments);
            prop_assert_eq!(template_fits(&pattern, &path), segments >= 2 * stars);
        }

        #[test]
        fn normalised_paths_stay_as_they_are(path in "/[a-z./%25e\\\\]{0,20}") {
            let once = Normalization::MergeSlashes.apply(&path);
            // An escape of an escape is undone once only.
            prop_assume!(!once.contains('%'));
            prop_assert_eq!(Normalization::MergeSlashes.apply(&once), once);
        }
    }
}
