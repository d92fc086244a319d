//! An order of rules in which those that select alike stand together, and in which every packet meets what it met before.
//!
//! Two kinds of neighbours may change places: rules of which no packet can match both, and rules of one outcome. All that
//! happens here is made of such exchanges: rules in the two halves of a prefix pass each other, a rule for the whole of it
//! stays where it is between them.

use super::cover::Cover;
use crate::model::Rule;

/// A rule, and outside of what it matches nothing.
pub(super) type Member<'a> = (&'a Rule, Cover);

/// Whether the order among these is of no matter.
fn commute(members: &[Member<'_>]) -> bool {
    let alike = members.windows(2).all(|pair| pair[0].0.outcome() == pair[1].0.outcome());
    alike || {
        let mut covers: Vec<Cover> = members.iter().map(|(_, cover)| *cover).collect();
        covers.sort_unstable();
        // Sorted: what holds another stands right before one that it holds.
        covers.windows(2).all(|pair| !pair[0].holds(pair[1]))
    }
}

/// The order, as indexes into `members`, in pieces of `most` rules or fewer. The order within a piece is of no matter.
pub(super) fn arrange(members: &[Member<'_>], most: usize, least: usize) -> Vec<Vec<usize>> {
    let mut layout = Layout { members, most, least, pieces: Vec::new() };
    layout.lay((0..members.len()).collect());
    layout.pieces
}

struct Layout<'a> {
    members: &'a [Member<'a>],
    most: usize,
    least: usize,
    pieces: Vec<Vec<usize>>,
}

impl Layout<'_> {
    fn commute(&self, indexes: &[usize]) -> bool {
        commute(&indexes.iter().map(|index| self.members[*index]).collect::<Vec<_>>())
    }

    /// Lays these down behind what is there; they are in their old order.
    fn lay(&mut self, mut indexes: Vec<usize>) {
        let Some(hull) = indexes.iter().map(|index| self.members[*index].1).reduce(Cover::with) else { return };
        let members = self.members;
        let alike = |a: &usize, b: &usize| members[*a].0.outcome() == members[*b].0.outcome();
        let fits = indexes.len() <= self.most && self.commute(&indexes);
        if fits || indexes.is_sorted_by(alike) {
            indexes.sort_by_key(|index| members[*index].1);
        }
        if fits {
            return self.put(indexes);
        }
        let half = |index: &usize| members[*index].1.half_of(hull);
        for stretch in indexes.chunk_by(|a, b| half(a).is_some() == half(b).is_some()) {
            match stretch.iter().filter_map(half).min() {
                Some(first) => {
                    let (low, high): (Vec<usize>, Vec<usize>) =
                        stretch.iter().partition(|index| half(index) == Some(first));
                    self.lay(low);
                    self.lay(high);
                }
                // For all of the prefix: nothing passes them but their like.
                None => {
                    for like in stretch.chunk_by(alike) {
                        like.chunks(self.most).for_each(|piece| self.put(piece.to_vec()));
                    }
                }
            }
        }
    }

    /// A piece of a few rules goes together with the one before.
    fn put(&mut self, piece: Vec<usize>) {
        if let Some(last) = self.pieces.last()
            && last.len().min(piece.len()) < self.least
            && last.len() + piece.len() <= self.most
        {
            let both = [last.as_slice(), &piece].concat();
            if self.commute(&both) {
                self.pieces.pop();
                return self.pieces.push(both);
            }
        }
        self.pieces.push(piece);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::cover::Axis;
    use super::*;
    use crate::model::Family;

    fn arranged(list: &[(&str, u32)], most: usize) -> Vec<Vec<String>> {
        let rule = |(net, table): &(&str, u32)| {
            let mut rule = Rule::lookup(Family::Ipv4, 1, *table);
            rule.selectors.from = Some(net.parse().unwrap());
            rule
        };
        let rules: Vec<Rule> = list.iter().map(rule).collect();
        let members: Vec<Member<'_>> = rules.iter().map(|rule| (rule, Axis::From.cover(rule).unwrap())).collect();
        let name = |index: usize| format!("{} {}", list[index].0, list[index].1);
        arrange(&members, most, 2).into_iter().map(|piece| piece.into_iter().map(name).collect()).collect()
    }

    #[test]
    fn what_no_packet_can_match_both_changes_places() {
        let list = [("10.3.0.0/16", 1), ("10.1.0.0/16", 2), ("10.2.0.0/16", 1), ("10.0.0.0/16", 2)];
        let names = |pieces: Vec<Vec<String>>| pieces.concat().join(", ");
        assert_eq!(names(arranged(&list, 2)), "10.0.0.0/16 2, 10.1.0.0/16 2, 10.2.0.0/16 1, 10.3.0.0/16 1");
        assert_eq!(arranged(&list, 4).len(), 1);
        assert_eq!(arranged(&list, 2).len(), 2);
    }

    #[test]
    fn what_overlaps_keeps_its_order() {
        // The wide one stands between what came before it and what came behind it, in whatever half these are.
        let list = [("10.3.0.0/16", 1), ("10.1.0.0/16", 1), ("10.0.0.0/14", 2), ("10.1.1.0/24", 3), ("10.3.1.0/24", 3)];
        let expected = "10.1.0.0/16 1, 10.3.0.0/16 1, 10.0.0.0/14 2, 10.1.1.0/24 3, 10.3.1.0/24 3";
        for most in 1..6 {
            assert_eq!(arranged(&list, most).concat().join(", "), expected);
        }
        // But for one outcome.
        let list = [("10.3.0.0/16", 1), ("10.0.0.0/14", 1), ("10.1.1.0/24", 1)];
        assert_eq!(arranged(&list, 2).concat().join(", "), "10.0.0.0/14 1, 10.1.1.0/24 1, 10.3.0.0/16 1");
        // Equal prefixes, of which the first decides.
        let list = [("10.3.0.0/16", 1), ("10.3.0.0/16", 2), ("10.3.0.0/16", 1)];
        assert_eq!(arranged(&list, 8), [["10.3.0.0/16 1"], ["10.3.0.0/16 2"], ["10.3.0.0/16 1"]]);
    }
}
