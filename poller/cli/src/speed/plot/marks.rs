//! A colour and a shape for each size.
//!
//! The colours are those of Okabe and Ito, which most colour-blind people tell apart, with a grey in the
//! place of the yellow that white paper swallows. The shapes do without colours: the second half is
//! hollow, and its lines are dashed.

use plotters::style::RGBColor;

const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(0, 0, 0),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(110, 110, 110),
];

/// How many there are.
pub(super) const COUNT: usize = 2 * COLOURS.len();

/// What one size looks like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Mark {
    pub(super) colour: RGBColor,
    pub(super) hollow: bool,
    shape: usize,
}

/// That of the size with this number; there are [`COUNT`].
pub(super) fn mark(number: usize) -> Mark {
    let shape = number % COLOURS.len();
    Mark { colour: COLOURS[shape], hollow: number % COUNT >= COLOURS.len(), shape }
}

impl Mark {
    /// The corners of its shape around a point, in pixels.
    pub(super) fn corners(&self, (x, y): (i32, i32), radius: f64) -> Vec<(i32, i32)> {
        // Corners on a circle from the top on, every second of a star nearer to the middle; a shape of the
        // same radius looks smaller the fewer corners it has.
        let (corners, inner, turn, size) = match self.shape {
            0 => (24, 1.0, 0.0, 1.0),  // a disc
            1 => (4, 1.0, 45.0, 1.25), // a square
            2 => (3, 1.0, 0.0, 1.4),   // a triangle
            3 => (4, 1.0, 0.0, 1.3),   // a diamond
            4 => (3, 1.0, 180.0, 1.4), // a triangle upside down
            5 => (10, 0.45, 0.0, 1.5), // a star of five
            6 => (8, 0.35, 0.0, 1.5),  // a star of four
            _ => (8, 0.35, 45.0, 1.5), // the same, turned
        };
        let corner = |number: i32| {
            let angle = (f64::from(number) * 360.0 / f64::from(corners) + turn).to_radians();
            let radius = radius * size * if number % 2 == 1 { inner } else { 1.0 };
            (x + (angle.sin() * radius).round() as i32, y - (angle.cos() * radius).round() as i32)
        };
        (0..corners).map(corner).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_marks_look_alike_without_colours() {
        let looks: Vec<_> =
            (0..COUNT).map(|number| (mark(number).hollow, mark(number).corners((0, 0), 20.0))).collect();
        for (number, look) in looks.iter().enumerate() {
            assert!(!looks[..number].contains(look), "{number}");
        }
    }
}
