//! Whether a certificate can be read and is valid at a moment. Nothing of it is verified: as far as istioctl looks.

use jiff::Timestamp;

/// The bytes of a base64 text, as Kubernetes writes them; line breaks are skipped.
pub(in crate::analyze) fn base64(text: &str) -> Option<Vec<u8>> {
    let (mut out, mut bits, mut have, mut length) = (vec![], 0_u32, 0_u32, 0_usize);
    let mut padding = 0;
    for byte in text.bytes().filter(|byte| !matches!(byte, b'\r' | b'\n')) {
        length += 1;
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => {
                padding += 1;
                continue;
            }
            _ => return None,
        };
        if padding > 0 {
            return None;
        }
        bits = (bits << 6) | u32::from(value);
        have += 6;
        if have >= 8 {
            have -= 8;
            out.push((bits >> have) as u8);
            bits &= (1 << have) - 1;
        }
    }
    (length % 4 == 0 && padding <= 2).then_some(out)
}

/// The content of the first PEM block of any type.
fn first_block(pem: &str) -> Option<Vec<u8>> {
    let (_, rest) = pem.split_once("-----BEGIN ")?;
    let (label, rest) = rest.split_once("-----")?;
    let (body, _) = rest.split_once(&format!("-----END {label}-----"))?;
    // Headers (`Proc-Type: …`) end with an empty line.
    let body = match body.split_once("\n\n") {
        Some((headers, body)) if headers.contains(':') => body,
        _ => body,
    };
    base64(&body.split_whitespace().collect::<String>())
}

/// Whether a text holds a PEM block that can be read.
pub(in crate::analyze) fn is_pem(text: &[u8]) -> bool {
    std::str::from_utf8(text).ok().and_then(first_block).is_some()
}

/// Whether the first block of a PEM text holds certificates, one behind the other, that are valid at a moment.
pub(super) fn is_valid(pem: &[u8], now: Timestamp) -> bool {
    let block = std::str::from_utf8(pem).ok().and_then(first_block);
    let Some(mut rest) = block.as_deref() else { return false };
    while !rest.is_empty() {
        let Some((validity, after)) = validity(rest) else { return false };
        if now < validity.0 || now > validity.1 {
            return false;
        }
        rest = after;
    }
    true
}

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The tag and content of a DER value, and what follows it.
fn value(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(*first), rest),
        // Four bytes of length are more than an object of a cluster holds.
        0x81..=0x84 => {
            let (length, rest) = rest.split_at_checked(usize::from(first - 0x80))?;
            (length.iter().fold(0, |sum, byte| (sum << 8) | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

fn expect(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    value(der).filter(|(found, _, _)| *found == tag).map(|(_, content, rest)| (content, rest))
}

/// From when until when the certificate at the beginning is valid, and what follows it (RFC 5280 §4.1).
fn validity(der: &[u8]) -> Option<((Timestamp, Timestamp), &[u8])> {
    let (certificate, after) = expect(der, SEQUENCE)?;
    let (signed, rest) = expect(certificate, SEQUENCE)?;
    let (_, rest) = expect(rest, SEQUENCE)?;
    expect(rest, BIT_STRING)?;
    let signed = expect(signed, VERSION).map_or(signed, |(_, rest)| rest);
    let (_serial, rest) = expect(signed, INTEGER)?;
    let (_algorithm, rest) = expect(rest, SEQUENCE)?;
    let (_issuer, rest) = expect(rest, SEQUENCE)?;
    let (validity, rest) = expect(rest, SEQUENCE)?;
    let (_subject, rest) = expect(rest, SEQUENCE)?;
    let (_key, _) = expect(rest, SEQUENCE)?;
    let (from, rest) = time(validity)?;
    let (until, _) = time(rest)?;
    Some(((from, until), after))
}

/// `991231235959Z` with the century by RFC 5280 §4.1.2.5.1, or `20501231235959Z`.
fn time(der: &[u8]) -> Option<(Timestamp, &[u8])> {
    let (tag, content, rest) = value(der)?;
    let text = std::str::from_utf8(content).ok()?.strip_suffix('Z')?;
    let text = match tag {
        GENERALIZED_TIME => text.to_owned(),
        UTC_TIME => {
            let century = if text.get(..2)?.parse::<u8>().ok()? >= 50 { "19" } else { "20" };
            format!("{century}{text}")
        }
        _ => return None,
    };
    if text.len() != 14 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let part = |from: usize, to: usize| text.get(from..to);
    let (date, clock) = (
        format!("{}-{}-{}", part(0, 4)?, part(4, 6)?, part(6, 8)?),
        format!("{}:{}:{}", part(8, 10)?, part(10, 12)?, part(12, 14)?),
    );
    Some((format!("{date}T{clock}Z").parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read_as_kubernetes_writes_it() {
        assert_eq!(base64("aGk=").unwrap(), b"hi");
        assert_eq!(base64("aGlo\naGlo").unwrap(), b"hihhih");
        assert!(base64("aG=k").is_none() && base64("aGk").is_none() && base64("a b=").is_none());
        assert_eq!(base64("").unwrap(), b"");
    }

    #[test]
    fn what_is_no_certificate_is_not_valid() {
        let now = Timestamp::UNIX_EPOCH;
        assert!(!is_valid(b"secret", now));
        assert!(!is_valid(b"-----BEGIN CERTIFICATE-----\naGk=\n-----END CERTIFICATE-----\n", now));
        assert!(value(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff]).is_none());
    }

    fn der(tag: u8, content: &[u8]) -> Vec<u8> {
        [&[tag, content.len() as u8], content].concat()
    }

    #[test]
    fn validity_is_a_span_of_time() {
        let times = [der(UTC_TIME, b"260101000000Z"), der(GENERALIZED_TIME, b"20270101000000Z")].concat();
        let empty = der(SEQUENCE, &[]);
        let signed = [
            der(VERSION, &[2, 1, 2]),
            der(INTEGER, &[1]),
            empty.clone(),
            empty.clone(),
            der(SEQUENCE, &times),
            empty.clone(),
            empty.clone(),
        ];
        let certificate =
            der(SEQUENCE, &[der(SEQUENCE, &signed.concat()), empty, der(BIT_STRING, &[0])].concat());
        let ((from, until), rest) = validity(&certificate).unwrap();
        assert_eq!(
            (from.to_string(), until.to_string()),
            ("2026-01-01T00:00:00Z".into(), "2027-01-01T00:00:00Z".into())
        );
        assert!(rest.is_empty());
    }
}
