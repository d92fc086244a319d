//! Jumps that change nothing: `not from C goto T` over rules that all look for sources within C, as long lists are grouped for the
//! kernel's walk. The program finds its rules otherwise, and would only have to try the jumps.

use super::lists::Candidate;
use router_common::layout::{ACT_GOTO, AddrWords, RULE_NOT, RULE_SELECTS, Selectors};

/// Rules looked at over and over again, for each rule of the list.
const EFFORT: usize = 64;

/// Takes the needless jumps out.
///
/// A jump over a stretch is needless if every rule there either matches nothing that jumps, or is a jump that does not leave the
/// stretch: then whoever jumps, and does not any more, meets nothing on the way to the same target. So several may go at once.
pub(super) fn drop_needless(list: Vec<Candidate>) -> Vec<Candidate> {
    let mut effort = list.len().saturating_mul(EFFORT);
    let needless: Vec<bool> = (0..list.len()).map(|index| is_needless(&list, index, &mut effort)).collect();
    if !needless.contains(&true) {
        return list;
    }
    // Where each rule, or the next one that stays, comes to stand.
    let mut place = Vec::with_capacity(list.len() + 1);
    let mut stay = 0;
    for needless in &needless {
        place.push(stay);
        stay += usize::from(!needless);
    }
    place.push(stay);
    let staying = list.into_iter().zip(needless).filter(|(_, needless)| !needless);
    staying
        .map(|(mut candidate, _)| {
            candidate.jump = candidate.jump.map(|target| place[target]);
            candidate
        })
        .collect()
}

fn is_needless(list: &[Candidate], index: usize, effort: &mut usize) -> bool {
    let jump = &list[index];
    let Some(target) = jump.jump.filter(|_| jump.action.flags == RULE_NOT | RULE_SELECTS) else { return false };
    let Some(stretch) = list.get(index + 1..target) else { return false };
    if stretch.len() > *effort {
        return false;
    }
    *effort -= stretch.len();
    let Some(cover) = Cover::of(&jump.selectors) else { return false };
    stretch.iter().all(|rule| {
        let stays = rule.action.action == ACT_GOTO && rule.jump.is_some_and(|other| other <= target);
        stays || (rule.action.flags & RULE_NOT == 0 && cover.holds(&rule.selectors))
    })
}

/// The one selector of a jump.
enum Cover {
    From(AddrWords, AddrWords),
    To(AddrWords, AddrWords),
    Mark(u32, u32),
}

impl Cover {
    fn of(selectors: &Selectors) -> Option<Cover> {
        let Selectors { flags, mark, mark_mask, from, from_mask, to, to_mask, flow_mask, ports_mask, .. } = *selectors;
        let [by_mark, by_from, by_to] = [mark_mask != 0, from_mask != [0; 4], to_mask != [0; 4]];
        match (flags | flow_mask | ports_mask, by_mark, by_from, by_to) {
            (0, true, false, false) => Some(Cover::Mark(mark, mark_mask)),
            (0, false, true, false) => Some(Cover::From(from, from_mask)),
            (0, false, false, true) => Some(Cover::To(to, to_mask)),
            _ => None,
        }
    }

    /// Whether what the selectors take is all within.
    fn holds(&self, selectors: &Selectors) -> bool {
        match self {
            Cover::From(value, mask) => within(&selectors.from, &selectors.from_mask, value, mask),
            Cover::To(value, mask) => within(&selectors.to, &selectors.to_mask, value, mask),
            Cover::Mark(value, mask) => selectors.mark_mask & mask == *mask && (selectors.mark ^ value) & mask == 0,
        }
    }
}

fn within(inner: &AddrWords, inner_mask: &AddrWords, value: &AddrWords, mask: &AddrWords) -> bool {
    (0..4).all(|word| inner_mask[word] & mask[word] == mask[word] && (inner[word] ^ value[word]) & mask[word] == 0)
}

#[cfg(test)]
mod tests;
