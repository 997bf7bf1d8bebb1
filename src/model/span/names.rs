//! Texts that many spans share, kept once.

use std::collections::HashMap;

/// Distinct texts of one snapshot's spans. Operations are few where they are named well; ids in their names make them many.
const MAX_NAMES: usize = 400_000;

/// Bytes of one text.
const MAX_TEXT: usize = 512;

/// A text of [`Names`]; 0 is the empty one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(u32);

impl Name {
    /// Whether it is empty.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Its place in [`Names::iter`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Interned texts.
#[derive(Debug, Clone)]
pub struct Names {
    texts: Vec<Box<str>>,
    known: HashMap<Box<str>, u32>,
}

impl Default for Names {
    fn default() -> Self {
        Names { texts: vec!["".into()], known: HashMap::from([("".into(), 0)]) }
    }
}

impl Names {
    /// The text of a name.
    pub fn text(&self, name: Name) -> &str {
        self.texts.get(name.index()).map_or("", |text| text)
    }

    /// All texts, the empty one first.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.texts.iter().map(AsRef::as_ref)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// Whether there is none but the empty one.
    pub fn is_empty(&self) -> bool {
        self.texts.len() <= 1
    }

    /// The name of a text. Beyond the bound everything new is the empty one; what is too long is cut.
    pub(super) fn intern(&mut self, text: &str) -> Name {
        let mut end = text.len().min(MAX_TEXT);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let text = text.get(..end).unwrap_or_default();
        if let Some(at) = self.known.get(text) {
            return Name(*at);
        }
        if self.texts.len() >= MAX_NAMES {
            return Name::default();
        }
        let at = self.texts.len() as u32;
        self.texts.push(text.into());
        self.known.insert(text.into(), at);
        Name(at)
    }

    /// Puts the texts in order; gives for each old name the new one. What interning needed is let go.
    pub(super) fn sort(&mut self) -> Vec<Name> {
        let mut order: Vec<u32> = (0..self.texts.len() as u32).collect();
        order.sort_by(|a, b| self.texts.get(*a as usize).cmp(&self.texts.get(*b as usize)));
        let mut new = vec![Name::default(); order.len()];
        for (to, from) in order.iter().enumerate() {
            if let Some(slot) = new.get_mut(*from as usize) {
                *slot = Name(to as u32);
            }
        }
        self.texts.sort_unstable();
        self.known = HashMap::new();
        new
    }
}
