//! What a cell is expected to end with, and what it ended with: the same short text.
//!
//! `+++FFFFF Ready 1/1`: the letters of the requests, a point between groups; the device's state;
//! faults and recoveries. In an expectation `[+F]` is one letter of these, `[+F]*` any number of
//! them, `Ready|Failed` one of the states, `0-2` a range.

use ringbell::{DeviceState, Stats};

/// What a cell ended with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub ends: String,
    pub state: DeviceState,
    pub faults: u64,
    pub recoveries: u64,
}

impl Seen {
    pub fn new(ends: String, state: DeviceState, stats: &Stats) -> Self {
        Self { ends, state, faults: stats.faults, recoveries: stats.recoveries }
    }
}

impl std::fmt::Display for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:?} {}/{}", self.ends, self.state, self.faults, self.recoveries)
    }
}

/// Whether `seen` is what `pattern` says.
pub fn matches(pattern: &str, seen: &Seen) -> bool {
    let words: Vec<_> = pattern.split(' ').collect();
    let [ends, state, counts] = words[..] else { panic!("a pattern has three words: {pattern}") };
    let (faults, recoveries) = counts.split_once('/').expect("faults/recoveries");
    let letters: Vec<_> = seen.ends.chars().collect();
    ends_match(&tokens(ends), &letters)
        && state.split('|').any(|state| state == format!("{:?}", seen.state))
        && in_range(faults, seen.faults)
        && in_range(recoveries, seen.recoveries)
}

/// A letter of some, or any number of them.
struct Token {
    letters: Vec<char>,
    many: bool,
}

fn tokens(text: &str) -> Vec<Token> {
    let mut tokens: Vec<Token> = Vec::new();
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match char {
            '*' => tokens.last_mut().expect("something to repeat").many = true,
            '[' => {
                let letters = chars.by_ref().take_while(|&char| char != ']').collect();
                tokens.push(Token { letters, many: false });
            }
            letter => tokens.push(Token { letters: vec![letter], many: false }),
        }
    }
    tokens
}

fn ends_match(tokens: &[Token], letters: &[char]) -> bool {
    let Some((token, rest)) = tokens.split_first() else { return letters.is_empty() };
    let one = letters.first().is_some_and(|letter| token.letters.contains(letter));
    match token.many {
        true => ends_match(rest, letters) || one && ends_match(tokens, &letters[1..]),
        false => one && ends_match(rest, &letters[1..]),
    }
}

fn in_range(text: &str, value: u64) -> bool {
    let number = |text: &str| text.parse::<u64>().expect("a number");
    match text.split_once('-') {
        Some((from, to)) => (number(from)..=number(to)).contains(&value),
        None => number(text) == value,
    }
}
