//! Blocks that writes past the end have skipped and that no write has filled yet. The kernel
//! may deliver the pages of one sequential write out of order; only a gap that is still there
//! when the state record is written makes the file one that may have holes.

use std::ops::Range;

/// Ranges of block indices, ascending, neither empty nor touching.
#[derive(Debug, Default)]
pub(super) struct Gaps {
    ranges: Vec<Range<u64>>,
}

impl Gaps {
    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Whether `block` lies in one.
    pub(super) fn contains(&self, block: u64) -> bool {
        let after = self.ranges.partition_point(|range| range.end <= block);
        self.ranges.get(after).is_some_and(|range| range.contains(&block))
    }

    /// Whether there is one in the first `blocks` blocks.
    pub(super) fn begin_before(&self, blocks: u64) -> bool {
        self.ranges.first().is_some_and(|range| range.start < blocks)
    }

    /// Adds the blocks at the end of the file that a write skips.
    pub(super) fn append(&mut self, skipped: Range<u64>) {
        if skipped.is_empty() {
            return;
        }
        debug_assert!(self.ranges.last().is_none_or(|last| last.end <= skipped.start));
        match self.ranges.last_mut() {
            Some(last) if last.end == skipped.start => last.end = skipped.end,
            _ => self.ranges.push(skipped),
        }
    }

    /// Takes out the blocks that a write has filled.
    pub(super) fn fill(&mut self, filled: Range<u64>) {
        if self.ranges.is_empty() {
            return;
        }
        self.ranges = std::mem::take(&mut self.ranges)
            .into_iter()
            .flat_map(|range| {
                [range.start..range.end.min(filled.start), range.start.max(filled.end)..range.end]
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
    fn filling_splits_and_removes() {
        let mut gaps = Gaps::default();
        gaps.append(2..10);
        gaps.append(10..12);
        gaps.append(20..21);
        assert_eq!(gaps.ranges, [2..12, 20..21]);
        gaps.fill(5..6);
        assert_eq!(gaps.ranges, [2..5, 6..12, 20..21]);
        assert!(gaps.contains(4) && !gaps.contains(5) && gaps.contains(20) && !gaps.contains(21));
        gaps.fill(0..30);
        assert!(gaps.is_empty());
        gaps.append(3..3);
        assert!(gaps.is_empty());
    }
}
