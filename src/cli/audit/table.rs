//! Tables in a terminal: columns as wide as what they hold, one of them shortened so that lines
//! fit. To a file or pipe nothing is shortened.

use std::io::IsTerminal;

/// Rows under a head.
pub struct Table {
    head: Vec<&'static str>,
    /// Whether a column holds numbers.
    numbers: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns; those whose name ends in `#` hold numbers.
    pub fn new(columns: &[&'static str]) -> Self {
        Self {
            head: columns.iter().map(|name| name.trim_end_matches('#')).collect(),
            numbers: columns.iter().map(|name| name.ends_with('#')).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row with as many cells as there are columns.
    pub fn row(&mut self, cells: Vec<String>) {
        assert_eq!(cells.len(), self.head.len(), "a cell for each column");
        self.rows.push(cells);
    }

    /// Whether there is a row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// The lines. If `width` is given, the last column loses the beginning of what does not fit.
    pub fn lines(&self, width: Option<usize>) -> Vec<String> {
        let mut widths: Vec<usize> = self.head.iter().map(|name| name.len()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let before: usize = widths[..widths.len() - 1].iter().map(|width| width + GAP).sum();
        if let (Some(limit), Some(last)) = (width, widths.last_mut()) {
            *last = (*last).min(limit.saturating_sub(before).max(LEAST));
        }
        let head: Vec<String> = self.head.iter().map(|name| (*name).to_owned()).collect();
        let rows = std::iter::once(&head).chain(&self.rows);
        rows.map(|row| self.line(row, &widths)).collect()
    }

    fn line(&self, row: &[String], widths: &[usize]) -> String {
        let mut line = String::new();
        for ((cell, width), number) in row.iter().zip(widths).zip(&self.numbers) {
            let cell = shorten(cell, *width);
            let blanks = " ".repeat(width - cell.chars().count());
            if *number {
                line.push_str(&blanks);
            }
            line.push_str(&cell);
            if !*number {
                line.push_str(&blanks);
            }
            line.push_str(&" ".repeat(GAP));
        }
        line.truncate(line.trim_end().len());
        line
    }
}

/// The width of the terminal that standard output is; `None` if it is none.
pub fn terminal_width() -> Option<usize> {
    let out = std::io::stdout();
    if !out.is_terminal() {
        return None;
    }
    let columns = rustix::termios::tcgetwinsize(&out).ok().map(|size| usize::from(size.ws_col));
    columns.filter(|columns| *columns > 0)
}

/// The end of a text, which tells more of a path than its beginning.
fn shorten(text: &str, width: usize) -> String {
    let len = text.chars().count();
    if len <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().skip(len + 1 - width).collect();
    format!("…{kept}")
}

const GAP: usize = 2;
const LEAST: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_the_last_is_shortened() {
        let mut table = Table::new(&["NAME", "N#", "PATH"]);
        table.row(vec!["ä".into(), "1".into(), "/a/long/path/to/a/file".into()]);
        table.row(vec!["bcdef".into(), "100".into(), String::new()]);
        let wide = ["NAME     N  PATH", "ä        1  /a/long/path/to/a/file", "bcdef  100"];
        assert_eq!(table.lines(None), wide);
        let narrow = table.lines(Some(24));
        assert_eq!(narrow[1], "ä        1  …h/to/a/file");
        assert!(narrow.iter().all(|line| line.chars().count() <= 24), "{narrow:?}");
    }
}
