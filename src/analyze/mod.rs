//! Rules, traffic, hypotheses and remedies: a pure function from a snapshot to a diagnosis.
