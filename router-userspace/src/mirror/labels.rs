//! Priorities for the pieces of a list: rising, and where the pieces have them already if they can.

/// The pieces stand so far apart at most, which leaves room for those that come later.
const STRIDE: u32 = 16;

/// A rising number below `end` for each piece, the first one's `first`. `places` are where the pieces are now; as many as can keep
/// theirs. There must be room for all of them.
pub(super) fn labels(places: &[Option<u32>], first: u32, end: u32) -> Vec<u32> {
    let mut labels: Vec<Option<u32>> = vec![None; places.len()];
    let kept = keepable(places, first, end);
    // A few that happen to stand in order would only crowd the others.
    if kept.len() * 2 >= places.len() {
        kept.into_iter().for_each(|piece| labels[piece] = places[piece]);
    }
    labels[..1].fill(Some(first));
    fill(&mut labels, end);
    labels.into_iter().flatten().collect()
}

/// The most pieces that can keep their places, with room for those between.
fn keepable(places: &[Option<u32>], first: u32, end: u32) -> Vec<usize> {
    // How many numbers are free before a piece, if all before it are numbered without a gap: these must not fall.
    let room = u64::from(end - first).saturating_sub(places.len() as u64);
    let spare = |(piece, place): (usize, &Option<u32>)| {
        let spare = u64::from((*place)?).checked_sub(u64::from(first) + piece as u64)?;
        let fits = spare <= room && (piece > 0 || spare == 0);
        fits.then_some((piece, spare))
    };
    let candidates: Vec<(usize, u64)> = places.iter().enumerate().filter_map(spare).collect();
    // The longest subsequence that does not fall: for each length the lowest end.
    let mut ends: Vec<usize> = Vec::new();
    let mut before: Vec<Option<usize>> = Vec::with_capacity(candidates.len());
    for (at, (_, spare)) in candidates.iter().enumerate() {
        let length = ends.partition_point(|end| candidates[*end].1 <= *spare);
        before.push(length.checked_sub(1).map(|shorter| ends[shorter]));
        ends.truncate(ends.len().max(length));
        match ends.get_mut(length) {
            Some(end) => *end = at,
            None => ends.push(at),
        }
    }
    let mut kept: Vec<usize> =
        std::iter::successors(ends.last().copied(), |at| before[*at]).map(|at| candidates[at].0).collect();
    kept.reverse();
    kept
}

/// Numbers what has none, evenly between its neighbours. The first one has one, and there is room.
fn fill(labels: &mut [Option<u32>], end: u32) {
    let mut at = 0;
    while let Some(from) = labels.get(at).copied().flatten() {
        let next = (at + 1..labels.len()).find(|place| labels[*place].is_some()).unwrap_or(labels.len());
        let missing = (next - at - 1) as u32;
        let room = labels.get(next).copied().flatten().unwrap_or(end) - from;
        let stride = (room / (missing + 1)).clamp(1, STRIDE);
        for (number, place) in (1..).zip(at + 1..next) {
            labels[place] = Some(from + number * stride);
        }
        at = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pieces_keep_their_numbers() {
        assert_eq!(labels(&[None; 4], 1000, 1100), [1000, 1016, 1032, 1048]);
        assert_eq!(labels(&[None; 4], 1000, 1004), [1000, 1001, 1002, 1003]);
        let now = [Some(1000), Some(1016), None, Some(1032), Some(1032), Some(1048)];
        assert_eq!(labels(&now, 1000, 1100), [1000, 1016, 1021, 1026, 1032, 1048]);
        // No room between two that stay: one of them goes. A place beyond the end is none.
        assert_eq!(labels(&[Some(1000), Some(1001), None, Some(1002)], 1000, 1010), [1000, 1001, 1004, 1007]);
        assert_eq!(labels(&[Some(1000), Some(2000), Some(1005)], 1000, 1010), [1000, 1002, 1005]);
        // One that stands out does not take those behind it along.
        assert_eq!(labels(&[Some(7), Some(900), Some(20), Some(30), Some(40)], 7, 1000), [7, 13, 20, 30, 40]);
        // One that takes the last number leaves none for those behind it.
        assert_eq!(labels(&[None, Some(1009), None], 1000, 1010), [1000, 1003, 1006]);
    }

    proptest! {
        #[test]
        fn numbers_rise_and_those_in_order_stay(
            places in prop::collection::vec(prop::option::of(95u32..170), 1..40),
            more in 0u32..60,
        ) {
            let end = 100 + places.len() as u32 + more;
            let numbers = labels(&places, 100, end);
            prop_assert_eq!(numbers.len(), places.len());
            prop_assert!(numbers[0] == 100 && numbers.iter().all(|number| *number < end), "{:?}", numbers);
            prop_assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{:?}", numbers);
            // What was given out stays, whatever goes.
            for gone in 1..numbers.len() {
                let mut left: Vec<Option<u32>> = numbers.iter().copied().map(Some).collect();
                left.remove(gone);
                let again = labels(&left, 100, end);
                prop_assert!(again.into_iter().map(Some).eq(left));
            }
        }
    }
}
