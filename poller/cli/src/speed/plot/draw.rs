//! The figure as SVG.
//!
//! plotters counts in whole pixels: the figure is drawn twice as large as it is shown, so that a curve is
//! smooth. Text stays text: its width is estimated, never measured, so no font is needed here, and nothing
//! stands where a wider font would make it touch something else.

use std::ops::Range;

use plotters::chart::ChartContext;
use plotters::coord::Shift;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::prelude::{
    Cartesian2d, ChartBuilder, DashedLineSeries, DrawingArea, DrawingAreaErrorKind, IntoDrawingArea,
    IntoFont, LineSeries, PathElement, Polygon, Rectangle, SVGBackend, Text,
};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{BLACK, Color, FontStyle, RGBColor, TextStyle, WHITE};

use super::super::report;
use super::axis::{self, Values};
use super::marks::{Mark, mark};
use super::{Cycles, Figure, Size};

/// Of the drawing, in its own pixels: half the size that it is shown in.
const WIDTH: u32 = 2000;
/// Below the heading.
const BODY: u32 = 880;
/// Heights of text.
const TITLE: f64 = 36.0;
const NORMAL: f64 = 26.0;
const SMALL: f64 = 23.0;
/// Between the middles of two labels side by side.
const LABEL_WIDTH: f64 = 84.0;
/// Left of an axis, with its labels and its name; below one.
const EDGE: u32 = 24;
const LEFT: u32 = 140;
const BELOW: u32 = 96;
/// Below one whose labels the panel under it has.
const ABOVE_ANOTHER: u32 = 20;
const RIGHT: u32 = 20;
const RADIUS: f64 = 9.0;
const GRID: RGBColor = RGBColor(215, 215, 215);
const LINE: RGBColor = RGBColor(110, 110, 110);
/// The share of a panel above its largest value that is left to a label.
const ROOM: f64 = 0.16;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<Axis, Axis>>;
type Drawn<T = ()> = Result<T, DrawingAreaErrorKind<std::io::Error>>;

/// An axis that is labelled where it is told.
#[derive(Clone)]
struct Axis {
    range: Range<f64>,
    ticks: Vec<f64>,
}

impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (first, last): (i32, i32)) -> i32 {
        let share = (value - self.range.start) / (self.range.end - self.range.start);
        first + (share * f64::from(last - first)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

/// The whole file.
pub(super) fn svg(figure: &Figure) -> Drawn<String> {
    let heading = heading_lines(&figure.heading);
    let top = 60 + 46 * heading.len() as u32;
    let height = top + BODY;
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, (WIDTH, height)).into_drawing_area();
        root.fill(&WHITE)?;
        for ((line, size, bold), number) in heading.iter().zip(0..) {
            write(&root, line, (40, 46 + 46 * number), *size, *bold, HPos::Left)?;
        }
        let body = |left: u32, width: u32| root.clone().shrink((left, top), (width, BODY));
        let cycles: Option<Vec<_>> = figure.sizes.iter().map(|size| size.cycles).collect();
        match cycles {
            Some(cycles) => phased(&root, [body(0, 1000), body(1000, 1000)], &figure.sizes, &cycles)?,
            None => {
                latency(&root, &body(0, 930), &figure.sizes)?;
                legend(&root, (955, top as i32 + 40), &figure.sizes)?;
                throughput(&root, &body(1120, 880), &figure.sizes)?;
            }
        }
        root.present()?;
    }
    let drawn = format!("width=\"{WIDTH}\" height=\"{height}\"");
    let shown = format!("width=\"{}\" height=\"{}\"", WIDTH / 2, height / 2);
    Ok(text.replacen(&drawn, &shown, 1))
}

/// The heading, each line with its height and weight: what is long goes on in the next line, and a third
/// line of the same ends it.
fn heading_lines(heading: &[String]) -> Vec<(String, f64, bool)> {
    let mut lines = Vec::new();
    for (number, text) in heading.iter().enumerate() {
        let (size, bold) = if number == 0 { (TITLE, true) } else { (NORMAL, false) };
        let fit = (f64::from(WIDTH - 100) / (size * 0.62)) as usize;
        lines.extend(folded(text, fit).into_iter().map(|line| (line, size, bold)));
    }
    lines
}

/// Text in at most three lines of `fit` characters, broken behind a comma or a space where there is one.
fn folded(text: &str, fit: usize) -> Vec<String> {
    let mut rest: Vec<char> = text.chars().collect();
    let mut lines = Vec::new();
    while rest.len() > fit && lines.len() < 2 {
        let at = rest[..fit].iter().rposition(|c| matches!(c, ',' | ' ')).map_or(fit, |at| at + 1);
        lines.push(rest.drain(..at).collect::<String>().trim_end().to_owned());
    }
    if rest.len() > fit {
        rest.truncate(fit - 1);
        rest.push('\u{2026}');
    }
    lines.push(rest.into_iter().collect());
    lines
}

fn text_style(size: f64, bold: bool) -> TextStyle<'static> {
    let weight = if bold { FontStyle::Bold } else { FontStyle::Normal };
    // The backend divides by that factor.
    TextStyle::from(("sans-serif", size * 1.24).into_font().style(weight)).color(&BLACK)
}

/// Text that begins, ends, or has its middle there; vertically it is centred.
fn write(root: &Area<'_>, text: &str, at: (i32, i32), size: f64, bold: bool, side: HPos) -> Drawn {
    root.draw(&Text::new(text.to_owned(), at, text_style(size, bold).pos(Pos::new(side, VPos::Center))))
}

/// The mark of a size.
fn put(root: &Area<'_>, mark: Mark, at: (i32, i32)) -> Drawn {
    let mut corners = mark.corners(at, RADIUS);
    let filled = if mark.hollow { WHITE.filled() } else { mark.colour.filled() };
    root.draw(&Polygon::new(corners.clone(), filled))?;
    // The outline keeps a filled one apart from its neighbours.
    corners.extend(corners.first().copied());
    let (colour, width) = if mark.hollow { (mark.colour, 4) } else { (WHITE, 1) };
    root.draw(&PathElement::new(corners, colour.stroke_width(width)))
}

/// Words at a mark, on white: lines pass behind them.
fn above(root: &Area<'_>, text: &str, (x, y): (i32, i32)) -> Drawn {
    let half = (text.chars().count() as f64 * SMALL * 0.3) as i32 + 2;
    root.draw(&Rectangle::new([(x - half, y - 14), (x + half, y + 14)], WHITE.filled()))?;
    write(root, text, (x, y), SMALL, false, HPos::Center)
}

/// What is written at a panel.
#[derive(Clone, Copy)]
struct Names<'p> {
    title: &'p str,
    /// Empty where the panel below has the labels.
    x: &'p str,
    y: &'p str,
}

/// What a panel is made of.
struct Panel<'p> {
    names: Names<'p>,
    x: Axis,
    x_label: &'p dyn Fn(f64) -> String,
    y: &'p Values,
    y_label: fn(f64) -> String,
}

impl Panel<'_> {
    /// Its title, grid and axes.
    fn draw<'a, 'b>(self, area: &'a Area<'b>) -> Drawn<Chart<'a, 'b>> {
        let Self { names, x, x_label, y, y_label } = self;
        let (width, _) = area.dim_in_pixel();
        let title = text_style(NORMAL, true).pos(Pos::new(HPos::Center, VPos::Center));
        let middle = ((width + EDGE + LEFT - RIGHT) / 2) as i32;
        area.draw(&Text::new(names.title.to_owned(), (middle, 18), title))?;
        let mut chart = ChartBuilder::on(area)
            .margin_top(46)
            .margin_left(EDGE)
            .margin_right(RIGHT)
            .x_label_area_size(if names.x.is_empty() { ABOVE_ANOTHER } else { BELOW })
            .y_label_area_size(LEFT)
            .build_cartesian_2d(x, Axis { range: y.range.clone(), ticks: y.ticks.clone() })?;
        let x_text = |place: &f64| x_label(*place);
        let y_text = |place: &f64| y_label(y.value(*place));
        chart
            .configure_mesh()
            .light_line_style(WHITE.mix(0.0))
            .bold_line_style(GRID.stroke_width(2))
            .axis_style(BLACK.stroke_width(2))
            .label_style(text_style(SMALL, false))
            .axis_desc_style(text_style(SMALL, false))
            .x_label_style(text_style(SMALL, false).color(&BLACK.mix(if names.x.is_empty() {
                0.0
            } else {
                1.0
            })))
            .x_label_formatter(&x_text)
            .y_label_formatter(&y_text)
            .x_desc(names.x)
            .y_desc(names.y)
            .draw()?;
        Ok(chart)
    }
}

/// Latency by percentile: a curve for each size, with its mark at the percentiles that are labelled.
fn latency(root: &Area<'_>, area: &Area<'_>, sizes: &[Size]) -> Drawn {
    let all = || sizes.iter().flat_map(|size| &size.curve);
    let last = all().map(|point| point.nines).fold(1.0, f64::max);
    let y = Values::log(all().map(|point| point.nanos), 0.0);
    let mut chart = Panel {
        names: Names {
            title: "Latency, from submission to delivery",
            x: "percentile of requests",
            y: "latency",
        },
        // The last mark whole.
        x: Axis { range: 0.0..last * 1.02, ticks: axis::nines(last) },
        x_label: &axis::percentile,
        y: &y,
        y_label: axis::time,
    }
    .draw(area)?;
    for (size, number) in sizes.iter().zip(0..) {
        let line = size.curve.iter().map(|point| (point.nines, y.place(point.nanos)));
        connect(&mut chart, mark(number), line)?;
    }
    for (size, number) in sizes.iter().zip(0..) {
        let Some(end) = size.curve.last() else { continue };
        for nines in axis::nines(end.nines) {
            let point = size.curve.iter().find(|point| point.nines >= nines);
            for point in point.into_iter().filter(|_| nines > 0.0) {
                let place = chart.backend_coord(&(point.nines, y.place(point.nanos)));
                put(root, mark(number), place)?;
            }
        }
    }
    Ok(())
}

/// A line in the manner of a mark.
fn connect(chart: &mut Chart<'_, '_>, mark: Mark, points: impl Iterator<Item = (f64, f64)>) -> Drawn {
    let style = mark.colour.stroke_width(4);
    if mark.hollow {
        let points: Vec<_> = points.collect();
        chart.draw_series(DashedLineSeries::new(points, 14, 8, style)).map(|_| ())
    } else {
        chart.draw_series(LineSeries::new(points, style)).map(|_| ())
    }
}

/// Which mark is which size.
fn legend(root: &Area<'_>, (left, top): (i32, i32), sizes: &[Size]) -> Drawn {
    write(root, "bytes", (left + 64, top), SMALL, true, HPos::Left)?;
    for (size, number) in sizes.iter().zip(0..) {
        let mark = mark(number);
        let y = top + 44 * (number as i32 + 1);
        let pieces: &[Range<i32>] =
            if mark.hollow { &[0..14, 36..50] } else { std::slice::from_ref(&(0..50)) };
        for piece in pieces {
            let ends = [(left + piece.start, y), (left + piece.end, y)];
            root.draw(&PathElement::new(ends, mark.colour.stroke_width(4)))?;
        }
        put(root, mark, (left + 25, y))?;
        write(root, &axis::bytes(size.bytes), (left + 64, y), SMALL, false, HPos::Left)?;
    }
    Ok(())
}

/// A value of one size, with its spread where it has one.
struct Sample {
    bytes: usize,
    value: f64,
    spread: Option<Range<f64>>,
}

const SIZE_NAME: &str = "bytes of a request (1K = 1024)";

/// Operations and bytes in a second, one above the other.
fn throughput(root: &Area<'_>, area: &Area<'_>, sizes: &[Size]) -> Drawn {
    // The lower has the labels of both.
    let (upper, lower) = area.split_vertically((BODY - BELOW + ABOVE_ANOTHER) / 2);
    let panel = |area, title, x_name, y_name, of: fn(&Size) -> f64| {
        let sample = |size: &Size| Sample { bytes: size.bytes, value: of(size), spread: None };
        let samples: Vec<_> = sizes.iter().map(sample).collect();
        let y = Values::log(samples.iter().map(|sample| sample.value), ROOM);
        by_size(root, area, Names { title, x: x_name, y: y_name }, &y, report::scaled, &samples)
    };
    panel(&upper, "Throughput: operations", "", "operations/s", |size| size.ops_per_second)?;
    panel(&lower, "Throughput: bytes", SIZE_NAME, "bytes/s", |size| size.bytes_per_second)
}

/// Enqueue and dequeue by size, on equal axes.
fn phased(
    root: &Area<'_>,
    [left, right]: [Area<'_>; 2],
    sizes: &[Size],
    cycles: &[(Cycles, Cycles)],
) -> Drawn {
    let of = |pick: fn(&(Cycles, Cycles)) -> Cycles| -> Vec<Sample> {
        let sample = |(size, both): (&Size, _)| {
            let Cycles { p10, median, p90 } = pick(both);
            Sample { bytes: size.bytes, value: median, spread: Some(p10..p90) }
        };
        sizes.iter().zip(cycles).map(sample).collect()
    };
    let (enqueue, dequeue) = (of(|both| both.0), of(|both| both.1));
    let ends = |sample: &Sample| sample.spread.as_ref().map_or(sample.value, |spread| spread.end);
    let y = Values::linear(enqueue.iter().chain(&dequeue).map(ends), ROOM);
    let panel = |area, title, samples| {
        let y_name = "ticks for an operation: median, first and last decile";
        by_size(
            root,
            area,
            Names { title, x: SIZE_NAME, y: y_name },
            &y,
            |ticks| format!("{ticks:.1}"),
            samples,
        )
    };
    panel(&left, "Enqueue", &enqueue)?;
    panel(&right, "Dequeue, with the callbacks", &dequeue)
}

/// Values by size, each with the mark of its size and the value in words.
fn by_size(
    root: &Area<'_>,
    area: &Area<'_>,
    names: Names<'_>,
    y: &Values,
    in_words: fn(f64) -> String,
    samples: &[Sample],
) -> Drawn {
    let place = |sample: &Sample| (sample.bytes as f64).log2();
    let mut order: Vec<_> = samples.iter().zip((0..).map(mark)).collect();
    order.sort_by_key(|(sample, _)| sample.bytes);
    let places = || order.iter().map(|(sample, _)| place(sample));
    let (first, last) = (places().fold(f64::MAX, f64::min), places().fold(0.0, f64::max));
    let (width, _) = area.dim_in_pixel();
    let width = f64::from(width - EDGE - LEFT - RIGHT);
    // Room for the words at the first and the last.
    let margin = ((last - first) * 0.6 * LABEL_WIDTH / (width - 1.2 * LABEL_WIDTH)).max(0.7);
    let range = first - margin..last + margin;
    let distance = LABEL_WIDTH * (range.end - range.start) / width;
    let labelled = axis::apart(places(), distance);
    let mut chart = Panel {
        names,
        x: Axis { range, ticks: labelled.clone() },
        x_label: &|place| axis::short_bytes(place.exp2().round() as usize),
        y,
        y_label: axis::count,
    }
    .draw(area)?;
    let line = order.iter().map(|(sample, _)| (place(sample), y.place(sample.value)));
    chart.draw_series(LineSeries::new(line, LINE.stroke_width(3)))?;
    // All have words or none has: words would hide the marks of neighbours that are nearer. Of sizes that
    // are the same, the first has them.
    let all = labelled.len() == axis::apart(places(), f64::MIN_POSITIVE).len();
    let mut labels = labelled.iter().filter(|_| all).peekable();
    for (sample, mark) in &order {
        let at = |value: f64| chart.backend_coord(&(place(sample), y.place(value)));
        let (x, middle) = at(sample.value);
        let mut top = middle;
        if let Some(spread) = &sample.spread {
            let ((_, low), (_, high)) = (at(spread.start), at(spread.end));
            top = top.min(high);
            let style = mark.colour.stroke_width(3);
            for ends in
                [[(x, low), (x, high)], [(x - 10, low), (x + 10, low)], [(x - 10, high), (x + 10, high)]]
            {
                root.draw(&PathElement::new(ends, style))?;
            }
        }
        put(root, *mark, (x, middle))?;
        if labels.next_if(|next| **next == place(sample)).is_some() {
            above(root, &in_words(sample.value), (x, top - 30))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::speed::plot::{MOST_NINES, Point, SIZES};

    fn figure(sizes: &[usize]) -> Figure {
        let curve = |bytes: f64| {
            vec![Point { nines: 0.0, nanos: bytes }, Point { nines: MOST_NINES, nanos: 2.0 * bytes }]
        };
        let size = |bytes: &usize| Size {
            bytes: *bytes,
            ops_per_second: 1e6,
            bytes_per_second: 1e6 * *bytes as f64,
            curve: curve(*bytes as f64),
            cycles: None,
        };
        Figure { heading: vec!["<a> & \"b\"".to_owned()], sizes: sizes.iter().map(size).collect() }
    }

    /// The texts of a figure, each with about the room that it takes: left, top, right, bottom.
    fn texts(svg: &str) -> Vec<(String, [f64; 4])> {
        let document = roxmltree::Document::parse(svg).unwrap();
        let texts = document.descendants().filter(|node| node.has_tag_name("text"));
        let room = |node: roxmltree::Node<'_, '_>| {
            let number = |key| node.attribute(key).unwrap().parse::<f64>().unwrap();
            let text = node.text().unwrap().trim().to_owned();
            let (x, y, em) = (number("x"), number("y"), number("font-size"));
            let long = text.chars().count() as f64 * em * 0.58;
            let left = match node.attribute("text-anchor").unwrap() {
                "start" => 0.0,
                "middle" => -long / 2.0,
                _ => -long,
            };
            let top = match node.attribute("dy").unwrap() {
                "0.76em" => 0.0,
                "0.5ex" => -em / 2.0,
                _ => -em,
            };
            let room = match node.attribute("transform") {
                // Upwards.
                Some(_) => [x + top, y - left - long, x + top + em, y - left],
                None => [x + left, y + top, x + left + long, y + top + em],
            };
            (text, room)
        };
        texts.map(room).collect()
    }

    #[test]
    fn text_is_folded_at_commas_and_ends_after_three_lines() {
        assert_eq!(folded("sim:a,b", 10), ["sim:a,b"]);
        assert_eq!(folded("aes on sim:queues=2,seed=7", 20), ["aes on sim:queues=2,", "seed=7"]);
        assert_eq!(folded(&"x".repeat(50), 10), ["x".repeat(10), "x".repeat(10), "x".repeat(9) + "\u{2026}"]);
        assert_eq!(folded("", 10), [""]);
    }

    #[test]
    fn every_number_of_sizes_is_drawn_within_the_picture_and_no_two_words_touch() {
        let powers: Vec<usize> = (6..=20).map(|power| 1 << power).collect();
        let sets: [&[usize]; 7] =
            [&[64], &[64, 64], &[64, 80, 1 << 20], &[1 << 20, 64], &powers[..8], &powers[..12], &powers];
        for sizes in sets {
            let svg = svg(&figure(sizes)).unwrap();
            let texts = texts(&svg);
            assert_eq!(texts[0].0, "<a> & \"b\"");
            for (number, (text, room)) in texts.iter().enumerate() {
                let [left, top, right, bottom] = *room;
                let inside =
                    left >= 0.0 && top >= 0.0 && right <= f64::from(WIDTH) && bottom <= f64::from(BODY + 106);
                assert!(inside, "{text} with {sizes:?}: {room:?}");
                for (other, with) in &texts[..number] {
                    let apart = right < with[0] || with[2] < left || bottom < with[1] || with[3] < top;
                    assert!(apart, "{text} touches {other} with {sizes:?}: {room:?}, {with:?}");
                }
            }
        }
    }

    #[test]
    fn the_most_sizes_have_room_in_the_legend() {
        let sizes: Vec<usize> = (0..SIZES).map(|number| 64 + 16 * number).collect();
        let svg = svg(&figure(&sizes)).unwrap();
        let last = texts(&svg).into_iter().rfind(|(text, _)| text == "304").unwrap();
        assert!(last.1[3] < f64::from(BODY), "{last:?}");
    }
}
