//! Istio's configuration, translated into listeners and route tables as its control plane does it.
