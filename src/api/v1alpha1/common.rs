//! Values that several parts of the API share.

use jiff::Timestamp;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

/// How bad a finding is for the service that was asked about; the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Severity {
    /// Requests fail or data is at risk now.
    Critical,
    /// Something that is asked for does not work.
    Error,
    /// It works, and will not for long, or not for everybody.
    Warning,
    /// Worth knowing.
    Info,
}

impl Severity {
    /// Its name as it stands in status, reports and metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Critical => "Critical",
            Severity::Error => "Error",
            Severity::Warning => "Warning",
            Severity::Info => "Info",
        }
    }
}

/// How much the evidence carries a finding; the least first.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum Confidence {
    /// One indirect sign.
    #[default]
    Low,
    /// A direct sign, or several indirect ones that agree.
    Medium,
    /// Seen directly, and nothing that was seen speaks against it.
    High,
}

/// The name of something that the operator's configuration defines. Never a URL, a header or a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LocalName {
    /// The name under which the operator's configuration knows it, such as `default`.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
}

/// Names an object, and where it matters a field in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TargetRef {
    /// Group and version, such as `networking.istio.io/v1`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 317))]
    pub api_version: String,
    /// Such as `VirtualService`.
    #[schemars(length(max = 63))]
    pub kind: String,
    /// Absent for a cluster-scoped object.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 63))]
    pub namespace: String,
    /// The object's name.
    #[schemars(length(max = 253))]
    pub name: String,
    /// Such as `spec.http[0].route[0].destination.subset`; absent where the object as a whole is meant.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 512))]
    pub field_path: String,
}

/// `Kind namespace/name`, the one way in which an object is written.
impl fmt::Display for TargetRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

/// A point in time, in UTC and to the second: finer than that is noise in a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(Timestamp);

impl Moment {
    /// The second in which `at` lies.
    pub fn new(at: Timestamp) -> Self {
        Moment(Timestamp::from_second(at.as_second()).unwrap_or(at))
    }

    /// The point in time.
    pub fn timestamp(self) -> Timestamp {
        self.0
    }
}

impl From<Timestamp> for Moment {
    fn from(at: Timestamp) -> Self {
        Moment::new(at)
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Timestamp::deserialize(deserializer).map(Moment::new)
    }
}

impl JsonSchema for Moment {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Moment".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "date-time" })
    }
}

/// A length of time as people write it: `90s`, `5m`, `1h30m`. Whole seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period {
    seconds: u32,
}

impl Period {
    /// A length of time in whole seconds.
    pub const fn from_secs(seconds: u32) -> Self {
        Period { seconds }
    }

    /// Its length in seconds.
    pub const fn as_secs(self) -> u32 {
        self.seconds
    }
}

impl From<Period> for Duration {
    fn from(period: Period) -> Self {
        Duration::from_secs(period.seconds.into())
    }
}

/// The text is not a length of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is no length of time: write whole hours, minutes and seconds, such as 90s, 5m or 1h30m")]
pub struct PeriodError;

impl std::str::FromStr for Period {
    type Err = PeriodError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut seconds: u32 = 0;
        let mut number = String::new();
        for c in text.chars() {
            let scale = match c {
                '0'..='9' => {
                    number.push(c);
                    continue;
                }
                'h' => 3600,
                'm' => 60,
                's' => 1,
                _ => return Err(PeriodError),
            };
            let count: u32 = number.parse().map_err(|_| PeriodError)?;
            number.clear();
            seconds =
                count.checked_mul(scale).and_then(|part| seconds.checked_add(part)).ok_or(PeriodError)?;
        }
        // A number without a unit at the end, or nothing at all.
        if !number.is_empty() || text.is_empty() {
            return Err(PeriodError);
        }
        Ok(Period { seconds })
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (hours, minutes, seconds) = (self.seconds / 3600, self.seconds / 60 % 60, self.seconds % 60);
        if hours > 0 {
            write!(f, "{hours}h")?;
        }
        if minutes > 0 {
            write!(f, "{minutes}m")?;
        }
        if seconds > 0 || self.seconds == 0 {
            write!(f, "{seconds}s")?;
        }
        Ok(())
    }
}

impl Serialize for Period {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(|error| de::Error::custom(format!("{text:?} {error}")))
    }
}

/// The longest text of a [`Period`] that the schema takes.
const MAX_PERIOD_LENGTH: u32 = 16;

impl JsonSchema for Period {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Period".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // What it must look like is said by CEL rules beside each field, since their messages can say what to
        // write instead; a `pattern` can only show itself.
        json_schema!({ "type": "string", "maxLength": MAX_PERIOD_LENGTH })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_read_and_write_what_people_write() {
        for (text, seconds) in [("90s", 90), ("5m", 300), ("1h30m", 5400), ("1h", 3600), ("0s", 0)] {
            assert_eq!(text.parse::<Period>(), Ok(Period::from_secs(seconds)), "{text}");
        }
        assert_eq!(Period::from_secs(5400).to_string(), "1h30m");
        assert_eq!(Period::from_secs(90).to_string(), "1m30s");
        assert_eq!(Period::from_secs(0).to_string(), "0s");
        for text in ["", "5", "m", "1d", "5m3", "-1s", "99999999999s", "4294967295h", "1.5h"] {
            assert_eq!(text.parse::<Period>(), Err(PeriodError), "{text}");
        }
    }

    #[test]
    fn moments_keep_the_second() {
        let at: Timestamp = "2026-11-21T10:00:00.987Z".parse().unwrap();
        assert_eq!(serde_json::to_value(Moment::new(at)).unwrap(), "2026-11-21T10:00:00Z");
    }
}
