//! Medians and spread.

/// The middle of a sample, and how far its values lie from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// A quarter of the values is below.
    pub q1: f64,
    /// A quarter of the values is above.
    pub q3: f64,
}

/// The value below which a share of the sorted values lies, between neighbours by their distance. NaN for none.
pub fn quantile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = share.clamp(0.0, 1.0) * last as f64;
    let (below, part) = (place.floor() as usize, place.fract());
    let above = (below + 1).min(last);
    sorted[below] + (sorted[above] - sorted[below]) * part
}

/// The spread of a sample; None for an empty one.
pub fn spread(values: &[f64]) -> Option<Spread> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |share| quantile(&sorted, share);
    (!sorted.is_empty()).then(|| Spread { median: at(0.5), q1: at(0.25), q3: at(0.75) })
}

/// The median; None for an empty sample.
pub fn median(values: &[f64]) -> Option<f64> {
    spread(values).map(|spread| spread.median)
}

/// The median of the ratios of what was measured in the same round: what slows a whole round down does not count.
pub fn ratio(values: &[f64], others: &[f64]) -> Option<f64> {
    let ratios: Vec<f64> =
        values.iter().zip(others).filter(|(_, other)| **other > 0.0).map(|(value, other)| value / other).collect();
    median(&ratios)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_and_the_quarters() {
        let found = spread(&[5.0, 1.0, 2.0, 4.0, 3.0]).expect("values");
        assert_eq!(found, Spread { median: 3.0, q1: 2.0, q3: 4.0 });
        assert_eq!(median(&[1.0, 2.0]), Some(1.5));
        assert_eq!(spread(&[]), None);
        assert_eq!(quantile(&[1.0, 2.0, 3.0], 0.99), 2.98);
    }

    #[test]
    fn ratios_are_those_of_each_round() {
        // The second round was slow for both.
        assert_eq!(ratio(&[20.0, 2.0, 22.0], &[10.0, 1.0, 11.0]), Some(2.0));
        assert_eq!(ratio(&[1.0], &[0.0]), None);
    }
}
