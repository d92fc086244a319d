//! The curves.

use std::{
    fmt::Display,
    ops::Range,
    path::{Path, PathBuf},
};

use anyhow::{Result, anyhow};
use indicatif::HumanCount;
use plotters::{coord::Shift, prelude::*, style::register_font};

use super::document::{Report, once};

/// Carried in this program: machines without a desktop have no fonts.
const FONT: &str = "DejaVu Sans";
const SIZE: (u32, u32) = (960, 600);
const COLORS: [RGBColor; 10] = [
    RGBColor(0x99, 0x99, 0x99),
    RGBColor(0xd6, 0x27, 0x28),
    RGBColor(0xff, 0x7f, 0x0e),
    RGBColor(0xbc, 0xa1, 0x00),
    RGBColor(0x9e, 0xda, 0xe5),
    RGBColor(0x1f, 0x77, 0xb4),
    RGBColor(0x2c, 0xa0, 0x2c),
    RGBColor(0xae, 0xc7, 0xe8),
    RGBColor(0x98, 0xdf, 0x8a),
    RGBColor(0x00, 0x00, 0x00),
];

/// A chart with a curve per path over the number of rules, both axes logarithmic.
pub struct Chart {
    name: String,
    title: String,
    unit: &'static str,
    curves: Vec<Curve>,
}

struct Curve {
    name: String,
    color: RGBColor,
    points: Vec<(f64, f64)>,
}

/// What is shown of a report: a chart for every kind of traffic, and for what was measured besides.
pub fn charts(report: &Report) -> Vec<Chart> {
    // A path has one colour in all charts.
    let names: Vec<&str> = once(report.results.iter().map(|row| row.path.as_str()));
    let chart = |name: String, title: String, unit, points: Vec<(&str, u32, f64)>| {
        let curve = |(place, path): (usize, &&str)| {
            let of = points.iter().filter(|(name, _, value)| name == path && *value > 0.0);
            let points: Vec<_> = of.map(|(_, rules, value)| (f64::from(*rules), *value)).collect();
            (!points.is_empty()).then(|| Curve {
                name: (*path).to_owned(),
                color: COLORS[place % COLORS.len()],
                points,
            })
        };
        let curves: Vec<Curve> = names.iter().enumerate().filter_map(curve).collect();
        Chart { name, title, unit, curves }
    };
    let mut charts = Vec::new();
    for traffic in report.traffic() {
        let rows = report.results.iter().filter(|row| row.traffic == traffic);
        let points = rows.filter_map(|row| Some((row.path.as_str(), row.rules, row.pps? / 1e3))).collect();
        charts.push(chart(format!("pps-{}", traffic.slug()), traffic.text(), "thousand packets a second", points));
    }
    for family in once(report.loading.iter().map(|row| row.family.as_str())) {
        let rows = report.loading.iter().filter(|row| row.family == family);
        let points = rows.map(|row| (row.path.as_str(), row.rules, row.ms)).collect();
        charts.push(chart(format!("loading-{family}"), format!("Installing the rules, {family}"), "ms", points));
        let rows = report.latency.iter().filter(|row| row.family == family);
        let points = rows.map(|row| (row.path.as_str(), row.rules, row.p50_ns / 1e3)).collect();
        charts.push(chart(format!("latency-{family}"), format!("One packet at a time, p50, {family}"), "µs", points));
        let rows = report.host_traffic.iter().filter(|row| row.family == family);
        let points = rows.map(|row| (row.path.as_str(), row.rules, row.udp_sends / 1e3)).collect();
        let title = format!("What the host itself sends, {family}");
        charts.push(chart(format!("host-{family}"), title, "thousand datagrams a second", points));
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
            .x_desc("rules")
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
    if value < 1.0 { format!("{value}") } else { HumanCount(value.round() as u64).to_string() }
}
