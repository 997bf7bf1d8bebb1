//! What is computed once from a whole snapshot, or from one object, and read by many.

use std::any::{Any, TypeId};
use std::sync::{Arc, Mutex, PoisonError};

use super::snapshot::Snapshot;

/// Something that follows from a snapshot alone, or from an object alone, and is costly to compute, such as the digest of all logs.
pub trait Derived<From = Snapshot>: Send + Sync + 'static {
    /// Computes it.
    fn derive(from: &From) -> Self;
}

/// Keeps what was derived, one value for each type. A clone starts empty: whoever clones a snapshot or an object may change it.
#[derive(Default)]
pub struct Memo(Mutex<Vec<(TypeId, Known)>>);

/// A value of a type that its place tells.
type Known = Arc<dyn Any + Send + Sync>;

impl Memo {
    /// The value, computed where it was not yet. Computing it twice at the same time is harmless: both come out alike.
    pub fn get<From, T: Derived<From>>(&self, from: &From) -> Arc<T> {
        let find = |all: &[(TypeId, Known)]| {
            all.iter().find(|(of, _)| *of == TypeId::of::<T>()).map(|(_, value)| Arc::clone(value))
        };
        let known = find(&self.0.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(value) = known.and_then(|value| value.downcast::<T>().ok()) {
            return value;
        }
        // Outside of the lock: a derivation that fails must cost itself alone.
        let value = Arc::new(T::derive(from));
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Of an object one thing is derived, of a snapshot a dozen: no room is kept for more, and no order.
        all.reserve_exact(1);
        all.push((TypeId::of::<T>(), value.clone()));
        value
    }
}

impl Clone for Memo {
    fn clone(&self) -> Self {
        Memo::default()
    }
}

impl std::fmt::Debug for Memo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Memo")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Pods(usize);

    impl Derived for Pods {
        fn derive(snapshot: &Snapshot) -> Self {
            Pods(snapshot.pods.len())
        }
    }

    #[test]
    fn a_value_is_made_once_and_not_shared_with_clones() {
        let snapshot = Snapshot::default();
        let (a, b) = (snapshot.derived::<Pods>(), snapshot.derived::<Pods>());
        assert!(Arc::ptr_eq(&a, &b) && a.0 == 0);
        assert!(!Arc::ptr_eq(&a, &snapshot.clone().derived::<Pods>()));
    }
}
