//! Statements of a program, found again from the lines that they wrote.
//!
//! [`mask`](super::mask) leaves few shapes for each statement. Here those that differ only by what varies become one template:
//! words with digits count as variable; a word at one place is variable where several others stand there in lines that are alike
//! otherwise; and where a log is full of lines that begin alike, a tree of fixed depth (length, then first word) leads to leaves in which
//! lines are joined that agree in most places, as Drain does (He et al., ICWS 2017). All shapes are looked at together, in order of their
//! text, so the templates depend on no order of lines, files or pods.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::mask::WILD;
use crate::analyze::finding::fingerprint;

/// Distinct shapes kept of one log; a log with more is not text. What comes beyond is told apart by its first words alone.
pub const MAX_SHAPES: usize = 4096;
/// Those that are told apart by their first words.
const MAX_COARSE: usize = 512;
/// Words of a coarse shape.
const COARSE_WORDS: usize = 3;
/// Words of a shape that are looked at.
const MAX_WORDS: usize = 48;
/// Distinct names (`with_underscores`, `CamelCase`, `dotted.names`) at one place that make it variable.
const NAMES: usize = 3;
/// Distinct words at one place that make it variable, in lines shorter than so many words: few are choices that a programmer wrote
/// (`opened`, `closed`), and the longer the line the less likely somebody wrote it twice.
const WORDS: &[(usize, usize)] = &[(6, 5), (8, 4), (12, 3), (usize::MAX, 2)];
/// A word is a value where another line has a value in its place, in lines of so many words.
const BESIDE_VALUE: usize = 4;
/// Distinct first words that make the first place variable: a sentence's first word is the last one to vary.
const FIRST_WORDS: usize = 16;
/// Among so many first words a logger puts the place in the source.
const PLACE_WORDS: usize = 4;
/// Rounds over all places: each may uncover the next variable place.
const ROUNDS: usize = 3;
/// Shapes in one leaf of the tree that make it a crowd: nobody wrote that many statements with one beginning.
const CROWD: usize = 48;
/// The share of places in which the lines of a crowd must agree to be joined; Drain's usual threshold.
const SIMILAR: f64 = 0.5;
/// Templates of one crowd that are compared with; what fits none of them then joins the last.
const MAX_LEAF: usize = 256;

/// Distinct masked texts, numbered in the order in which they came.
#[derive(Debug, Default)]
pub struct Shapes {
    known: HashMap<Box<str>, u32>,
    coarse: usize,
}

impl Shapes {
    /// The number of a shape. When all are used up, longer ones are told apart by their first words, and then not at all.
    pub fn number(&mut self, masked: &str) -> u32 {
        if let Some(number) = self.known.get(masked) {
            return *number;
        }
        let number = self.known.len() as u32;
        if self.known.len() < MAX_SHAPES {
            self.known.insert(masked.into(), number);
            return number;
        }
        let mut words: Vec<&str> = masked.split(' ').take(COARSE_WORDS).collect();
        words.push("…");
        let head = words.join(" ");
        if let Some(number) = self.known.get(head.as_str()) {
            return *number;
        }
        if self.coarse < MAX_COARSE {
            self.coarse += 1;
            self.known.insert(head.into(), number);
            return number;
        }
        *self.known.entry("…".into()).or_insert(number)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// The templates of all shapes: their texts, and for each shape the index of its template.
    pub fn templates(&self) -> (Vec<String>, Vec<usize>) {
        let mut shapes: Vec<(&str, u32)> =
            self.known.iter().map(|(text, number)| (&**text, *number)).collect();
        shapes.sort_unstable();
        let texts: Vec<&str> = shapes.iter().map(|(text, _)| *text).collect();
        let groups = group(&texts);
        let mut templates = vec![];
        let mut of_shape = vec![0; shapes.len()];
        for group in groups {
            let members: Vec<&str> = group.iter().filter_map(|at| texts.get(*at).copied()).collect();
            for (_, number) in group.iter().filter_map(|at| shapes.get(*at)) {
                if let Some(slot) = of_shape.get_mut(*number as usize) {
                    *slot = templates.len();
                }
            }
            templates.push(common(&members));
        }
        (templates, of_shape)
    }
}

/// What names a template in every run: a hash of its text.
pub fn template_id(text: &str) -> String {
    fingerprint("t", &[text])
}

/// A shape on its way to a template: its words, those that vary already replaced.
struct Shape<'a> {
    at: usize,
    words: Vec<&'a str>,
}

const WILD_WORD: &str = "*";

/// Groups shapes (sorted, distinct) by template: indices, in order of the first of each group.
fn group(texts: &[&str]) -> Vec<Vec<usize>> {
    let mut shapes: Vec<Shape<'_>> = texts
        .iter()
        .enumerate()
        .map(|(at, text)| Shape { at, words: text.splitn(MAX_WORDS, ' ').map(canonical).collect() })
        .collect();
    for _ in 0..ROUNDS {
        if !widen(&mut shapes) {
            break;
        }
    }
    let mut groups: BTreeMap<Vec<&str>, Vec<usize>> = BTreeMap::new();
    for shape in shapes {
        groups.entry(shape.words).or_default().push(shape.at);
    }
    let mut groups = join_crowds(groups);
    groups.iter_mut().for_each(|group| group.sort_unstable());
    groups.sort_unstable();
    groups
}

/// A word that holds a value is that value's key alone: `port=*`, `[id:*`; any other is nothing but a value.
fn canonical(word: &str) -> &str {
    if !varies(word) {
        return word;
    }
    let end = word.find(|c: char| c == WILD || c.is_ascii_digit()).unwrap_or(word.len());
    let head = word.get(..end).unwrap_or_default();
    // Up to the last separator before the value.
    match head.rfind(['=', ':', '[', '(', '{', '<', '"', '\'', '|']) {
        Some(at) => word.get(..=at).unwrap_or(WILD_WORD),
        None => WILD_WORD,
    }
}

/// Whether a word holds a value. Names like `http2` do, too, as far as comparing is concerned; places in the source never do.
fn varies(word: &str) -> bool {
    let place = word.contains(['#', ':'])
        && word
            .rsplit([':', '#'])
            .next()
            .is_some_and(|line| line.trim_end_matches(']').bytes().all(|b| b.is_ascii_digit()))
        && word.trim_end_matches(']').ends_with(|c: char| c.is_ascii_digit());
    !place && word.bytes().any(|b| b == WILD as u8 || b.is_ascii_digit())
}

/// A word like those that programs, and not prose, are made of.
fn is_name(word: &str) -> bool {
    let core = word.trim_matches(|c: char| !c.is_alphanumeric());
    let bytes = core.as_bytes();
    core.contains(['_', '-', '.', '/', '$', '@', '\\'])
        || bytes.windows(2).any(|w| matches!(w, [a, b] if a.is_ascii_lowercase() && b.is_ascii_uppercase()))
        || word.contains("='")
        || word.contains("=\"")
}

fn mix(word: &str, at: usize) -> u64 {
    let seed = 0xcbf2_9ce4_8422_2325 ^ (at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    word.bytes().fold(seed, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Finds places at which shapes that are alike otherwise hold several words, and makes them variable. Whether it found any.
fn widen(shapes: &mut [Shape<'_>]) -> bool {
    let sums: Vec<u64> = shapes
        .iter()
        .map(|shape| {
            let length = mix("", shape.words.len());
            shape.words.iter().enumerate().fold(length, |sum, (at, word)| sum.wrapping_add(mix(word, at)))
        })
        .collect();
    // By the sum without one place, and that place: the words that stand there.
    let mut seen: HashMap<(u64, usize), BTreeSet<&str>> = HashMap::new();
    for (shape, sum) in shapes.iter().zip(&sums) {
        for (at, word) in shape.words.iter().enumerate() {
            if !is_place(word) {
                let words = seen.entry((sum.wrapping_sub(mix(word, at)), at)).or_default();
                if words.len() < FIRST_WORDS {
                    words.insert(word);
                }
            }
        }
    }
    let variable = |words: &BTreeSet<&str>, at: usize, length: usize, placed: bool| {
        let of_length = WORDS.iter().find(|(below, _)| length < *below).map_or(2, |(_, enough)| *enough);
        let enough = match (at, length) {
            (_, 1) => usize::MAX,
            (0, _) => FIRST_WORDS,
            _ if placed => 2,
            _ if length >= BESIDE_VALUE && words.iter().any(|word| is_value(word)) => 2,
            _ if words.iter().all(|word| is_name(word)) => NAMES.min(of_length),
            _ => of_length,
        };
        words.len() >= enough
    };
    let mut changed = false;
    for (shape, sum) in shapes.iter_mut().zip(&sums) {
        let length = shape.words.len();
        // Lines of one place in the source are of one statement: any other word in them varies.
        let placed = shape.words.iter().take(PLACE_WORDS).any(|word| is_place(word));
        for (at, word) in shape.words.iter_mut().enumerate() {
            let key = (sum.wrapping_sub(mix(word, at)), at);
            if *word != WILD_WORD && seen.get(&key).is_some_and(|words| variable(words, at, length, placed)) {
                *word = WILD_WORD;
                changed = true;
            }
        }
    }
    changed
}

/// Whether a word is a value and nothing else, or a bracket that holds one.
fn is_value(word: &str) -> bool {
    matches!(word, WILD_WORD | "[" | "(" | "\"" | "'")
}

/// Whether a word is a place in the source: such a word never varies.
fn is_place(word: &str) -> bool {
    !varies(word) && word.bytes().any(|b| b.is_ascii_digit())
}

/// Joins what is alike in most places, in leaves with more templates than anybody wrote.
fn join_crowds(groups: BTreeMap<Vec<&str>, Vec<usize>>) -> Vec<Vec<usize>> {
    type Leaf<'a> = Vec<(Vec<&'a str>, Vec<usize>)>;
    let mut leaves: BTreeMap<(usize, &str), Leaf<'_>> = BTreeMap::new();
    for (words, members) in groups {
        leaves
            .entry((words.len(), words.first().copied().unwrap_or_default()))
            .or_default()
            .push((words, members));
    }
    let mut out = vec![];
    for ((length, _), leaf) in leaves {
        if leaf.len() < CROWD || length < 3 {
            out.extend(leaf.into_iter().map(|(_, members)| members));
            continue;
        }
        let mut joined: Vec<(Vec<&str>, Vec<usize>)> = vec![];
        for (words, members) in leaf {
            let full = joined.len() >= MAX_LEAF;
            let best = joined
                .iter_mut()
                .map(|known| (likeness(&known.0, &words), known))
                .filter(|(share, _)| *share >= SIMILAR || full)
                .max_by(|a, b| a.0.total_cmp(&b.0));
            match best {
                Some((_, known)) => {
                    for (mine, other) in known.0.iter_mut().zip(&words) {
                        if mine != other {
                            *mine = WILD_WORD;
                        }
                    }
                    known.1.extend(members);
                }
                None => joined.push((words, members)),
            }
        }
        out.extend(joined.into_iter().map(|(_, members)| members));
    }
    out
}

/// The share of places in which two lines agree; 0 where they come from different places in the source.
fn likeness(a: &[&str], b: &[&str]) -> f64 {
    let pairs = || a.iter().zip(b);
    if pairs().any(|(a, b)| a != b && is_place(a) && is_place(b)) {
        return 0.0;
    }
    pairs().filter(|(a, b)| a == b).count() as f64 / a.len().max(1) as f64
}

/// What shapes have in common, word by word.
fn common(members: &[&str]) -> String {
    let Some((first, rest)) = members.split_first() else { return String::new() };
    if rest.is_empty() {
        return (*first).to_owned();
    }
    let mut words: Vec<Cow<'_, str>> = first.splitn(MAX_WORDS, ' ').map(Cow::Borrowed).collect();
    for other in rest {
        for (mine, word) in words.iter_mut().zip(other.splitn(MAX_WORDS, ' ')) {
            if mine == word || mine == WILD_WORD {
                continue;
            }
            let key = canonical(word);
            let same_key = key != WILD_WORD && varies(word) && key == canonical(mine);
            *mine = if same_key { Cow::Owned(format!("{key}{WILD}")) } else { Cow::Borrowed(WILD_WORD) };
        }
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::super::mask::mask;
    use super::*;

    /// The templates of these messages, and how many there are of each.
    fn mine<'a>(messages: impl IntoIterator<Item = &'a str>) -> Vec<String> {
        let mut shapes = Shapes::default();
        for message in messages {
            shapes.number(&mask(message));
        }
        let mut texts = shapes.templates().0;
        texts.sort();
        texts
    }

    #[test]
    fn values_do_not_make_statements() {
        let found = mine([
            "pod web-1 of node a12 took 3 ms",
            "pod db-77 of node b7 took 12 ms",
            "pod cache of node c9 took 5 ms",
            "cannot open file",
            "cannot close file",
        ]);
        assert_eq!(found.len(), 3, "{found:?}");
        let found = mine([
            "user alice joined",
            "user bob joined",
            "user carol joined",
            "user dave joined",
            "user eve joined",
            "user fay joined",
        ]);
        assert_eq!(found, ["user * joined"]);
        let found = mine(["bean fooService made", "bean barService made", "bean bazService made"]);
        assert_eq!(found, ["bean * made"]);
    }

    #[test]
    fn places_in_the_source_tell_statements_apart() {
        let found = mine([
            "a.b.PayService#12 took 1 ms",
            "a.b.PayService#13 took 2 ms",
            "a.b.PayService#14 took 2 ms",
            "a.b.PayService#15 took 2 ms",
        ]);
        assert_eq!(found.len(), 4, "{found:?}");
    }

    #[test]
    fn a_crowd_is_joined() {
        let words: Vec<String> = (0..26u8).map(|n| char::from(b'a' + n).to_string().repeat(3)).collect();
        let lines: Vec<String> = words
            .iter()
            .flat_map(|a| words.iter().map(move |b| (a, b)))
            .step_by(5)
            .map(|(a, b)| format!("moved {a} to {b} by request of the user"))
            .collect();
        let found = mine(lines.iter().map(String::as_str));
        assert_eq!(found, ["moved * to * by request of the user"]);
    }

    #[test]
    fn no_order_of_lines_changes_the_templates() {
        let lines = ["a 1 b", "a x b", "user ann left", "user x12 left", "c d e", "c=1 d", "c=q d"];
        let there = mine(lines);
        let back = mine(lines.into_iter().rev());
        assert_eq!(there, back);
    }

    #[test]
    fn there_are_never_more_shapes_than_allowed() {
        let mut shapes = Shapes::default();
        let letters = |mut n: usize| {
            let mut out = String::new();
            while n > 0 {
                out.push((b'a' + (n % 26) as u8) as char);
                n /= 26;
            }
            out
        };
        for n in 0..20_000 {
            shapes.number(&format!("{} {} {} x", letters(n), letters(n * 7), letters(n * 13)));
        }
        assert!(shapes.len() <= MAX_SHAPES + MAX_COARSE + 1);
        assert_eq!(shapes.templates().1.len(), shapes.len());
    }
}
