//! Sets of blocks, kept as ranges: the blocks that writes past the end have skipped and that no
//! write has filled yet, and those that were changed since the last sync.

use std::ops::Range;

/// Ranges of block indices, ascending, neither empty nor touching.
#[derive(Debug, Default)]
pub(super) struct BlockRanges {
    ranges: Vec<Range<u64>>,
}

impl BlockRanges {
    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Whether `block` is in the set.
    pub(super) fn contains(&self, block: u64) -> bool {
        self.meets(&(block..block + 1))
    }

    /// Whether any of `blocks` is in the set.
    pub(super) fn meets(&self, blocks: &Range<u64>) -> bool {
        let after = self.ranges.partition_point(|range| range.end <= blocks.start);
        let next = self.ranges.get(after);
        !blocks.is_empty() && next.is_some_and(|range| range.start < blocks.end)
    }

    /// Whether there is one in the first `blocks` blocks.
    pub(super) fn begin_before(&self, blocks: u64) -> bool {
        self.ranges.first().is_some_and(|range| range.start < blocks)
    }

    /// Adds blocks.
    pub(super) fn insert(&mut self, blocks: Range<u64>) {
        if blocks.is_empty() {
            return;
        }
        // Those that overlap or touch become one with the new range.
        let from = self.ranges.partition_point(|range| range.end < blocks.start);
        let to = self.ranges.partition_point(|range| range.start <= blocks.end);
        let joined = match self.ranges[from..to] {
            [] => blocks,
            [ref first, .., ref last] => first.start.min(blocks.start)..last.end.max(blocks.end),
            [ref one] => one.start.min(blocks.start)..one.end.max(blocks.end),
        };
        self.ranges.splice(from..to, [joined]);
    }

    /// Adds all blocks of another set.
    pub(super) fn insert_all(&mut self, other: Self) {
        for range in other.ranges {
            self.insert(range);
        }
    }

    /// Takes blocks out.
    pub(super) fn remove(&mut self, blocks: Range<u64>) {
        if self.ranges.is_empty() || blocks.is_empty() {
            return;
        }
        self.ranges = std::mem::take(&mut self.ranges)
            .into_iter()
            .flat_map(|range| {
                [range.start..range.end.min(blocks.start), range.start.max(blocks.end)..range.end]
            })
            .filter(|range| !range.is_empty())
            .collect();
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.ranges.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removal_splits_and_insertion_joins() {
        let mut set = BlockRanges::default();
        set.insert(2..10);
        set.insert(10..12);
        set.insert(20..21);
        assert_eq!(set.ranges, [2..12, 20..21]);
        set.remove(5..6);
        assert_eq!(set.ranges, [2..5, 6..12, 20..21]);
        assert!(set.contains(4) && !set.contains(5) && set.contains(20) && !set.contains(21));
        assert!(set.meets(&(5..7)) && !set.meets(&(5..6)) && !set.meets(&(12..20)));
        set.insert(4..7);
        assert_eq!(set.ranges, [2..12, 20..21]);
        set.insert(0..30);
        assert_eq!(set.ranges, [Range { start: 0, end: 30 }]);
        set.remove(0..30);
        assert!(set.is_empty());
        set.insert(3..3);
        assert!(set.is_empty());
    }

    #[test]
    fn agrees_with_a_set_of_single_blocks() {
        let mut set = BlockRanges::default();
        let mut model = std::collections::BTreeSet::new();
        let mut random = 7_u64;
        let mut below = |bound: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) % bound
        };
        for _ in 0..2000 {
            let start = below(60);
            let blocks = start..start + below(9);
            if below(2) == 0 {
                model.extend(blocks.clone());
                set.insert(blocks);
            } else {
                model.retain(|block| !blocks.contains(block));
                set.remove(blocks);
            }
            let listed: Vec<u64> = set.ranges.iter().cloned().flatten().collect();
            assert_eq!(listed, model.iter().copied().collect::<Vec<_>>());
            assert!(set.ranges.windows(2).all(|pair| pair[0].end < pair[1].start));
        }
    }
}
