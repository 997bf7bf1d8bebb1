//! The Gateway API's configuration, translated into listeners and route tables.
