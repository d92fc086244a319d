//! How answers look.

pub mod bench;
pub mod compare;
pub mod diagnostics;
pub mod explain;
pub mod lab;
pub mod plan;

use comfy_table::{ContentArrangement, Table, TableComponent, presets};

/// The one look of all tables: lines above, below the header and at the end, none between rows.
pub fn table(color: bool) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Disabled);
    for line in [
        TableComponent::HorizontalLines,
        TableComponent::MiddleIntersections,
        TableComponent::LeftBorderIntersections,
        TableComponent::RightBorderIntersections,
    ] {
        table.remove_style(line);
    }
    if color {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    table
}
