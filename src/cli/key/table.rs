//! Text for people: columns of a table, and names with their values.

/// Columns as wide as their widest cell; the first row is the heading. Control characters, which
/// a description may have, are escaped so that they cannot act on a terminal.
pub(super) fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let rows: Vec<[String; N]> =
        rows.iter().map(|row| std::array::from_fn(|index| printable(&row[index]))).collect();
    let width = |index: usize| {
        let cells = rows.iter().map(|row| row[index].chars().count());
        cells.max().unwrap_or(0)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            line.push_str(&format!("{cell:width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// One name and value a line; those without a value are left out.
pub(super) fn members(pairs: &[(&str, Option<String>)]) -> String {
    let present = pairs.iter().filter_map(|(name, value)| Some([*name, value.as_deref()?]));
    let rows: Vec<[String; 2]> = present.map(|row| row.map(str::to_owned)).collect();
    columns(&rows)
}

/// The text with its control characters escaped.
pub(super) fn printable(text: &str) -> String {
    let escape = |c: char| match c.is_control() {
        true => c.escape_default().collect::<String>(),
        false => c.to_string(),
    };
    text.chars().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_nothing_acts_on_a_terminal() {
        let rows = [["KEY", "NAME"], ["a", "ä\u{1b}[2J"], ["long one", ""]];
        let text = columns(&rows.map(|row| row.map(str::to_owned)));
        assert_eq!(text, "KEY       NAME\na         ä\\u{1b}[2J\nlong one\n");
    }

    #[test]
    fn members_without_a_value_are_left_out() {
        let text = members(&[("state", Some("Enabled".into())), ("deleted", None)]);
        assert_eq!(text, "state  Enabled\n");
    }
}
