//! Pictures of a run: lag over time and its distribution, the seed's upload, a tree.

use std::path::Path;

use plotters::prelude::*;

use crate::measure::Lag;
use crate::people::People;
use crate::results::Results;
use crate::trees::Trees;

const SIZE: (u32, u32) = (960, 480);
const FONT: (&str, i32) = ("sans-serif", 18);
/// The lag's distribution is drawn in steps of so many milliseconds, up to this one.
const STEP_MS: usize = 20;
const MOST_MS: usize = 2500;

type Drawn = Result<(), Box<dyn std::error::Error>>;

/// One line of a picture.
struct Line<'a> {
    name: &'a str,
    color: RGBColor,
    points: Vec<(f64, f64)>,
}

/// The only line of a picture, which needs no name.
fn alone(points: impl Iterator<Item = (f64, f64)>) -> Line<'static> {
    Line {
        name: "",
        color: BLUE,
        points: points.collect(),
    }
}

/// What stands at the axes.
struct Axes<'a> {
    title: &'a str,
    x: &'a str,
    y: &'a str,
}

fn chart(file: &Path, axes: &Axes<'_>, lines: &[Line<'_>]) -> Drawn {
    let root = SVGBackend::new(file, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let points = || lines.iter().flat_map(|line| &line.points);
    let most = |of: fn(&(f64, f64)) -> f64| points().map(of).fold(f64::MIN_POSITIVE, f64::max);
    let least = points()
        .map(|p| p.0)
        .fold(f64::MAX, f64::min)
        .min(most(|p| p.0));
    let mut chart = ChartBuilder::on(&root)
        .caption(axes.title, FONT)
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(least..most(|p| p.0), 0.0..most(|p| p.1) * 1.05)?;
    chart
        .configure_mesh()
        .x_desc(axes.x)
        .y_desc(axes.y)
        .draw()?;
    for line in lines {
        let color = line.color;
        chart
            .draw_series(LineSeries::new(line.points.iter().copied(), &color))?
            .label(line.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], color));
    }
    if lines.len() > 1 {
        let labels = &mut chart.configure_series_labels();
        labels.border_style(BLACK).background_style(WHITE).draw()?;
    }
    root.present()?;
    Ok(())
}

fn lag_over_time(people: &People<'_>, file: &Path) -> Drawn {
    let lags = people.world().measure().lags();
    let of = |ms: fn(&Lag) -> u32| {
        let points = lags.iter().map(|lag| (lag.second as f64, ms(lag).into()));
        points.collect()
    };
    let axes = Axes {
        title: "lag over time",
        x: "s of the run",
        y: "ms",
    };
    let line = |name, color, ms| Line {
        name,
        color,
        points: of(ms),
    };
    let lines = [
        line("p50", BLUE, |lag| lag.p50_ms),
        line("p99", RED, |lag| lag.p99_ms),
    ];
    chart(file, &axes, &lines)
}

fn lag_distribution(people: &People<'_>, file: &Path) -> Drawn {
    let shares = people
        .world()
        .measure()
        .lag
        .shares(STEP_MS, MOST_MS / STEP_MS);
    let step = |(n, share): (usize, f64)| ((n * STEP_MS) as f64, share * 100.0);
    let axes = Axes {
        title: "from a piece's making to its verified arrival",
        x: "ms",
        y: "% of the pieces, per 20 ms",
    };
    chart(
        file,
        &axes,
        &[alone(shares.into_iter().enumerate().map(step))],
    )
}

fn seed_upload(results: &Results, file: &Path) -> Drawn {
    let seconds = results.per_second.iter().enumerate();
    let axes = Axes {
        title: "what the seed sends",
        x: "s of the measured time",
        y: "copies of the stream",
    };
    chart(
        file,
        &axes,
        &[alone(seconds.map(|(n, s)| (n as f64, s.seed_x)))],
    )
}

/// The tree of the first stripe: a row for each depth, those that can pass on most to the left.
fn tree(trees: &Trees, file: &Path) -> Drawn {
    let root = SVGBackend::new(file, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut rows: Vec<Vec<usize>> = vec![vec![0]];
    for viewer in 1..=trees.viewers() {
        let Some(depth) = trees.depth(0, viewer) else {
            continue;
        };
        let depth = depth as usize;
        if rows.len() <= depth {
            rows.resize(depth + 1, Vec::new());
        }
        rows[depth].push(viewer);
    }
    let mut at = vec![None; trees.viewers() + 1];
    let height = f64::from(SIZE.1) / rows.len() as f64;
    for (depth, row) in rows.iter_mut().enumerate() {
        row.sort_by_key(|v| std::cmp::Reverse(v.checked_sub(1).map_or(0, |_| trees.slots(*v))));
        let width = f64::from(SIZE.0) / row.len() as f64;
        for (n, viewer) in row.iter().enumerate() {
            let x = (n as f64 + 0.5) * width;
            at[*viewer] = Some((x as i32, ((depth as f64 + 0.5) * height) as i32));
        }
    }
    for viewer in 1..=trees.viewers() {
        let from = trees.parent(0, viewer).and_then(|parent| at[parent]);
        if let (Some(from), Some(to)) = (from, at[viewer]) {
            root.draw(&PathElement::new([from, to], BLACK.mix(0.2)))?;
        }
    }
    for (viewer, place) in at.iter().enumerate() {
        let Some(place) = place else { continue };
        let strength = viewer.checked_sub(1).map_or(0, |_| trees.slots(viewer));
        let (size, color) = match (viewer, strength) {
            (0, _) => (6, RED),
            (_, 0) => (1, BLACK),
            (_, slots) => (2 + (slots as f64).sqrt() as i32 / 2, BLUE),
        };
        root.draw(&Circle::new(*place, size, color.filled()))?;
    }
    root.present()?;
    Ok(())
}

/// Draws all into a folder.
///
/// # Errors
///
/// If the folder or a file in it cannot be written.
pub fn draw(people: &People<'_>, results: &Results, folder: &Path) -> Drawn {
    std::fs::create_dir_all(folder)?;
    lag_over_time(people, &folder.join("lag.svg"))?;
    lag_distribution(people, &folder.join("lag-distribution.svg"))?;
    seed_upload(results, &folder.join("seed.svg"))?;
    tree(&Trees::of(people), &folder.join("tree.svg"))
}
