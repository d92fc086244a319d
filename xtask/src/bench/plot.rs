//! The curves.

use std::{
    fmt::Display,
    ops::Range,
    path::{Path, PathBuf},
};

use anyhow::{Result, anyhow};
use plotters::{coord::Shift, prelude::*, style::register_font};

use super::document::{Report, Row, count, once};

/// Carried in this program: machines without a desktop have no fonts.
const FONT: &str = "DejaVu Sans";
const SIZE: (u32, u32) = (960, 600);
const COLORS: [RGBColor; 14] = [
    RGBColor(0x99, 0x99, 0x99),
    RGBColor(0xd6, 0x27, 0x28),
    RGBColor(0xff, 0x7f, 0x0e),
    RGBColor(0xbc, 0xa1, 0x00),
    RGBColor(0x9e, 0xda, 0xe5),
    RGBColor(0x1f, 0x77, 0xb4),
    RGBColor(0x2c, 0xa0, 0x2c),
    RGBColor(0xc5, 0xb0, 0xd5),
    RGBColor(0x94, 0x67, 0xbd),
    RGBColor(0xae, 0xc7, 0xe8),
    RGBColor(0x98, 0xdf, 0x8a),
    RGBColor(0x8c, 0x56, 0x4b),
    RGBColor(0xe3, 0x77, 0xc2),
    RGBColor(0x00, 0x00, 0x00),
];

/// A chart of curves over a number, both axes logarithmic.
pub struct Chart {
    name: String,
    title: String,
    x: &'static str,
    unit: &'static str,
    curves: Vec<Curve>,
}

struct Curve {
    name: String,
    color: RGBColor,
    points: Vec<(f64, f64)>,
}

/// What is drawn of a list: a curve for each name, over one field.
struct Drawing {
    x: (&'static str, &'static str),
    unit: &'static str,
    field: &'static str,
    scale: f64,
    name: fn(Row<'_>) -> String,
}

impl Drawing {
    /// Of paths, over their rules.
    const fn of_paths(unit: &'static str, field: &'static str, scale: f64) -> Self {
        Drawing { x: ("rules", "rules or prefixes"), unit, field, scale, name: |row| row.text("path").to_owned() }
    }

    /// `names` are all that there are anywhere: each has one colour in all charts.
    fn chart(&self, title: String, names: &[String], rows: &[Row<'_>]) -> Chart {
        let curve = |(place, name): (usize, &String)| {
            let of = rows.iter().filter(|row| (self.name)(**row) == *name);
            let point = |row: &Row<'_>| Some((row.number(self.x.0)?, row.number(self.field)? / self.scale));
            let points: Vec<(f64, f64)> = of.filter_map(point).filter(|(_, value)| *value > 0.0).collect();
            let color = COLORS[place % COLORS.len()];
            (!points.is_empty()).then(|| Curve { name: name.clone(), color, points })
        };
        let curves = names.iter().enumerate().filter_map(curve).collect();
        let name = title.replace(',', "").replace(' ', "-").to_lowercase();
        Chart { name, title, x: self.x.1, unit: self.unit, curves }
    }
}

const PPS: Drawing = Drawing::of_paths("thousand packets a second", "pps", 1e3);
const CPU: Drawing = Drawing::of_paths("ns of CPU a packet", "cpu_ns_per_packet", 1.0);

/// What is measured besides, for each family.
const FURTHER: &[(&str, &str, Drawing)] = &[
    ("loading", "Installing the rules", Drawing::of_paths("ms", "ms", 1.0)),
    ("latency", "One packet at a time p50", Drawing::of_paths("µs", "p50_ns", 1e3)),
    ("latency", "One packet at a time p99", Drawing::of_paths("µs", "p99_ns", 1e3)),
    ("host_traffic", "What the host itself sends", Drawing::of_paths("thousand datagrams a second", "udp_sends", 1e3)),
    (
        "host_traffic",
        "Connections that the host itself begins",
        Drawing::of_paths("thousand connect() a second", "tcp_connects", 1e3),
    ),
    (
        "lookups",
        "Look-ups by themselves",
        Drawing {
            x: ("prefixes", "prefixes"),
            name: |row| format!("{}, {}", row.text("structure"), row.text("addresses")),
            ..Drawing::of_paths("ns", "ns", 1.0)
        },
    ),
    (
        "updates",
        "Updates",
        Drawing {
            x: ("rules", "rules, routes or prefixes"),
            name: |row| format!("{}, {}", row.text("of"), row.text("update")),
            ..Drawing::of_paths("ms", "ms", 1.0)
        },
    ),
    (
        "programs",
        "The program by itself",
        Drawing { name: |row| row.text("program").to_owned(), ..Drawing::of_paths("ns", "ns", 1.0) },
    ),
];

/// What is shown of a report: two charts for every kind of traffic, and those of what was measured besides.
pub fn charts(report: &Report) -> Vec<Chart> {
    let paths = once(report.rows("results").map(PPS.name));
    let mut charts: Vec<Chart> = Vec::new();
    for (traffic, rows) in report.by_traffic() {
        charts.push(CPU.chart(format!("CPU, {traffic}"), &paths, &rows));
        charts.push(PPS.chart(traffic, &paths, &rows));
    }
    for (part, title, drawing) in FURTHER {
        let own = once(report.rows(part).map(drawing.name));
        let names = if own.iter().all(|name| paths.contains(name)) { &paths } else { &own };
        for family in once(report.rows(part).map(|row| row.text("family"))) {
            let rows: Vec<Row<'_>> = report.rows(part).filter(|row| row.text("family") == family).collect();
            charts.push(drawing.chart(format!("{title}, {family}"), names, &rows));
        }
    }
    charts.retain(|chart| !chart.curves.is_empty());
    charts
}

impl Chart {
    /// Draws it twice, as SVG and as PNG.
    pub fn draw(&self, folder: &Path) -> Result<[PathBuf; 2]> {
        register_font(FONT, FontStyle::Normal, dejavu::sans::regular())
            .map_err(|_| anyhow!("the font cannot be read"))?;
        let files = ["svg", "png"].map(|kind| folder.join(format!("{}.{kind}", self.name)));
        let failed = |error: &dyn Display| anyhow!("cannot draw {}: {error}", self.name);
        self.on(&SVGBackend::new(&files[0], SIZE).into_drawing_area()).map_err(|error| failed(&error))?;
        self.on(&BitMapBackend::new(&files[1], SIZE).into_drawing_area()).map_err(|error| failed(&error))?;
        Ok(files)
    }

    fn on<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
    ) -> Result<(), DrawingAreaErrorKind<<B as DrawingBackend>::ErrorType>> {
        area.fill(&WHITE)?;
        let (x, y) = (self.range(|point| point.0), self.range(|point| point.1));
        let mut chart = ChartBuilder::on(area)
            .caption(&self.title, (FONT, 20))
            .margin(12)
            .margin_right(40)
            .x_label_area_size(44)
            .y_label_area_size(76)
            .build_cartesian_2d(x.log_scale(), y.log_scale())?;
        chart
            .configure_mesh()
            .light_line_style(BLACK.mix(0.05))
            .bold_line_style(BLACK.mix(0.15))
            .x_desc(self.x)
            .y_desc(self.unit)
            .x_label_formatter(&|value| label(*value))
            .y_label_formatter(&|value| label(*value))
            .label_style((FONT, 14))
            .draw()?;
        for curve in &self.curves {
            let line = LineSeries::new(curve.points.iter().copied(), curve.color.stroke_width(2)).point_size(3);
            let color = curve.color;
            let sample = move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2));
            chart.draw_series(line)?.label(&curve.name).legend(sample);
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerLeft)
            .background_style(WHITE.mix(0.85))
            .border_style(BLACK.mix(0.3))
            .label_font((FONT, 13))
            .draw()?;
        area.present()
    }

    /// From a power of ten to a power of ten.
    fn range(&self, of: impl Fn(&(f64, f64)) -> f64) -> Range<f64> {
        let values = || self.curves.iter().flat_map(|curve| &curve.points).map(&of);
        let least = values().fold(f64::INFINITY, f64::min).log10().floor();
        let most = values().fold(0.0, f64::max).log10().ceil();
        10f64.powf(least)..10f64.powf(most.max(least + 1.0))
    }
}

fn label(value: f64) -> String {
    if value < 1.0 { format!("{value}") } else { count(value.round() as u64) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::document::SAMPLE;

    #[test]
    fn a_chart_is_drawn_twice() {
        let charts = charts(&Report::read(SAMPLE).expect("a document"));
        let names: Vec<&str> = charts.iter().map(|chart| chart.name.as_str()).collect();
        let wanted = [
            "cpu-ipv4-64-bytes-one-flow-rp_filter-0",
            "ipv4-64-bytes-one-flow-rp_filter-0",
            "look-ups-by-themselves-ipv4",
            "updates-ipv4",
        ];
        assert_eq!(names, wanted);
        let folder = std::env::temp_dir().join(format!("wayfork-plot-{}", std::process::id()));
        std::fs::create_dir(&folder).expect("a folder");
        let [svg, png] = charts[1].draw(&folder).expect("drawn").map(|file| std::fs::read(file).expect("a file"));
        std::fs::remove_dir_all(&folder).expect("the folder can be removed");
        assert!(png.starts_with(b"\x89PNG") && png.len() > 1000);
        let svg = String::from_utf8(svg).expect("SVG is text");
        assert!(svg.contains("wayfork-redirect") && svg.contains("thousand packets a second"), "{svg}");
    }
}
