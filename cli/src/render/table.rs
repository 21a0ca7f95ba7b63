//! Columns aligned at tabs, three spaces apart, at least ten wide.

const PADDING: usize = 3;
const WIDTH_MIN: usize = 10;

/// Aligns lines whose cells end in tabs. A column is as wide as its widest cell;
/// the last cell of a line is not padded, and no line ends in spaces.
pub fn align(text: &str) -> String {
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split('\t').collect()).collect();
    let n_columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = lines.iter().filter(|cells| cells.len() > column + 1).map(|cells| cells[column].chars().count() + PADDING);
        cells.max().unwrap_or(0).max(WIDTH_MIN)
    };
    let widths: Vec<usize> = (0..n_columns).map(width).collect();
    let mut out = String::new();
    for cells in &lines {
        let (last, padded) = cells.split_last().expect("a split has at least one part");
        let line: String = padded.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        out.push_str(format!("{line}{last}").trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let text = align("ID\tNAME\tPORTS\nabcdefghijkl\tweb\t\nx\ta-much-longer-name\t80\n");
        expect![[r#"
            ID             NAME                 PORTS
            abcdefghijkl   web
            x              a-much-longer-name   80
        "#]]
        .assert_eq(&text);
    }
}
