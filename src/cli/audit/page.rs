//! The report as one page for itself: no script, nothing loaded from elsewhere, readable in
//! light, dark and print. Every name that others have chosen is escaped.

use super::chart::{Series, by_name, over_time};
use super::report::{damaged_note, period, shown_key, shown_time};
use super::visible;
use crate::keys::audit::{Counts, MAX_REFUSALS, Span, Summary, UserSummary, UtcTime};

/// The page.
pub fn render(summary: &Summary, source: &str, now: UtcTime) -> String {
    let mut page = String::from(START);
    page.push_str(STYLE);
    page.push_str("</style></head><body><header><h1>Use of keys</h1>");
    page.push_str(&format!(
        "<p>Keystore <code>{}</code>, {}. Made {} UTC. All times are UTC.</p></header><main>",
        escape(source),
        escape(&period(summary)),
        shown_time(Some(now)),
    ));
    if summary.damaged_lines > 0 {
        page.push_str(&format!("<p class=\"warning\">{}</p>", escape(&damaged_note(summary))));
    }
    page.push_str(&tiles(summary));
    page.push_str(&charts(summary));
    page.push_str(&key_table(summary));
    page.push_str(&user_table(summary));
    page.push_str(&file_tables(summary));
    page.push_str(&refusal_table(summary));
    page.push_str(&incident_table(summary));
    page.push_str("</main></body></html>");
    page
}

/// Text as it may stand in HTML and in attributes.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in visible(text).chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

fn tiles(summary: &Summary) -> String {
    let total = &summary.total;
    let cached = match total.uses {
        0 => "no uses".to_owned(),
        uses => format!("{} % with the data key in memory", total.from_cache * 100 / uses),
    };
    let plural = |count: usize, one: &str| match count {
        1 => format!("1 {one}"),
        count => format!("{count} {one}s"),
    };
    let keys = summary.keys.keys().filter(|key_id| !key_id.is_empty()).count();
    let by = format!("by {}", plural(summary.users.len(), "user"));
    let rows = [
        ("uses", total.uses, "uses", cached),
        ("changes", total.changes, "changes to keys", by),
        ("denied", total.denied, "denied", "by a policy".to_owned()),
        ("errors", total.errors, "other errors", "such as a disabled key".to_owned()),
        ("queries", total.queries, "queries", format!("about {}", plural(keys, "key"))),
    ];
    let tiles = rows.map(|(class, count, name, detail)| {
        format!(
            "<div class=\"tile {class}\"><b>{count}</b><span>{name}</span><small>{detail}</small>\
             </div>"
        )
    });
    format!("<section class=\"tiles\">{}</section>", tiles.concat())
}

fn charts(summary: &Summary) -> String {
    let all = [USES, CHANGES, DENIED, ERRORS];
    let refused = [DENIED, ERRORS];
    let (width, buckets) = summary.timeline(MAX_BUCKETS);
    let keys: Vec<_> =
        summary.keys.iter().map(|(key_id, key)| (shown_key(key_id), key.counts)).collect();
    let users: Vec<_> =
        summary.users.values().map(|user| (user.label.clone(), user.counts)).collect();
    let figure = |title: String, class: &str, series: &[Series], svg: String| {
        let legend: String = series
            .iter()
            .map(|part| format!("<i class=\"{}\"></i>{} ", part.class, part.name))
            .collect();
        format!(
            "<figure class=\"{class}\"><figcaption><b>{title}</b><span class=\"legend\">{legend}\
             </span></figcaption>{svg}</figure>"
        )
    };
    [
        "<section class=\"charts\">".to_owned(),
        figure(
            format!("Over time, by {width}"),
            "wide",
            &all,
            over_time("All events over time", &buckets, &all),
        ),
        figure("By key".to_owned(), "", &all, by_name("Events by key", &keys, &all)),
        figure("By user".to_owned(), "", &all, by_name("Events by user", &users, &all)),
        figure(
            format!("Refused over time, by {width}"),
            "wide",
            &refused,
            over_time("Refusals over time", &buckets, &refused),
        ),
        figure(
            "Refused by key".to_owned(),
            "",
            &refused,
            by_name("Refusals by key", &keys, &refused),
        ),
        figure(
            "Refused by user".to_owned(),
            "",
            &refused,
            by_name("Refusals by user", &users, &refused),
        ),
        "</section>".to_owned(),
    ]
    .concat()
}

fn key_table(summary: &Summary) -> String {
    let rows = summary.keys.iter().map(|(key_id, key)| {
        let versions: Vec<String> = key.versions.iter().map(u64::to_string).collect();
        let mut cells = vec![code(&shown_key(key_id)), text(&versions.join(", "))];
        cells.extend(count_cells(&key.counts));
        cells.push(number(key.users.len() as u64));
        cells.extend(span_cells(key.span));
        cells
    });
    let head = "<th>Key<th>Versions<th class=n>Uses<th class=n>In memory<th class=n>Changes\
                <th class=n>Denied<th class=n>Errors<th class=n>Users<th>First<th>Last";
    table("Keys", head, rows.collect())
}

fn user_table(summary: &Summary) -> String {
    let rows = summary.users.iter().map(|(uid, user)| {
        let mut cells = vec![text(&user.label), number(u64::from(*uid))];
        cells.extend(count_cells(&user.counts));
        cells.push(number(user.files.len() as u64));
        cells.extend(span_cells(user.span));
        cells
    });
    let head = "<th>User<th class=n>Uid<th class=n>Uses<th class=n>In memory<th class=n>Changes\
                <th class=n>Denied<th class=n>Errors<th class=n>Files<th>First<th>Last";
    table("Users", head, rows.collect())
}

fn file_tables(summary: &Summary) -> String {
    let users = summary.users.values().filter(|user| !user.files.is_empty());
    users.map(files_of).collect()
}

fn files_of(user: &UserSummary) -> String {
    let mut files: Vec<_> = user.files.iter().collect();
    files.sort_by(|(_, one), (_, other)| {
        (other.counts.all(), &one.path).cmp(&(one.counts.all(), &other.path))
    });
    let left_out = files.len().saturating_sub(MAX_FILES);
    files.truncate(MAX_FILES);
    let rows = files.into_iter().map(|((_, file_id), file)| {
        let Counts { uses, denied, errors, .. } = file.counts;
        let mut cells = vec![format!("<td class=path>{}", escape(&file.path)), code(file_id)];
        cells.extend([number(uses), refused(denied, "denied"), refused(errors, "errors")]);
        cells.extend(span_cells(file.span));
        cells
    });
    let head = "<th>File<th>File id<th class=n>Uses<th class=n>Denied<th class=n>Errors<th>First\
                <th>Last";
    let title = format!("Files of {}", escape(&user.label));
    let mut table = table(&title, head, rows.collect());
    if left_out > 0 {
        table.push_str(&format!(
            "<p>And {left_out} more; <code>--format json</code> gives all.</p>"
        ));
    }
    table
}

fn refusal_table(summary: &Summary) -> String {
    let rows = summary.refusals.iter().map(|refusal| {
        vec![
            text(&shown_time(Some(refusal.time))),
            text(&refusal.user),
            text(&refusal.event),
            text(&refusal.code),
            code(&shown_key(&refusal.key)),
            format!("<td class=path>{}", escape(&refusal.path)),
        ]
    });
    let head = "<th>Time<th>User<th>Event<th>Error<th>Key<th>File";
    let mut table = table("Refused, the newest first", head, rows.collect());
    if summary.refusals.len() == MAX_REFUSALS {
        table.push_str(&format!("<p>Only the last {MAX_REFUSALS} are listed.</p>"));
    }
    table
}

fn incident_table(summary: &Summary) -> String {
    let rows = summary.incidents.iter().map(|incident| {
        vec![
            number(incident.seq),
            text(&shown_time(Some(incident.time))),
            text(&incident.name),
            text(&incident.details),
        ]
    });
    let head = "<th class=n>Record<th>Time<th>Event<th>Details";
    let table = table("What the log tells of itself", head, rows.collect());
    table
        + "<p class=\"note\">This page sums up what the records say. Whether they are whole and \
             genuine is what <code>ssefs audit verify</code> tells.</p>"
}

/// A table under its title; one without rows says so. `title` is escaped.
fn table(title: &str, head: &str, rows: Vec<Vec<String>>) -> String {
    if rows.is_empty() {
        return format!("<h2>{title}</h2><p>None.</p>");
    }
    let rows: String = rows.into_iter().map(|cells| format!("<tr>{}\n", cells.concat())).collect();
    format!(
        "<h2>{title}</h2><div class=\"scroll\"><table><thead><tr>{head}</thead><tbody>{rows}\
         </tbody></table></div>"
    )
}

fn text(cell: &str) -> String {
    format!("<td>{}", escape(cell))
}

fn code(cell: &str) -> String {
    format!("<td><code>{}</code>", escape(cell))
}

fn number(count: u64) -> String {
    format!("<td class=n>{count}")
}

/// A number of refusals, which stands out unless it is zero.
fn refused(count: u64, class: &str) -> String {
    match count {
        0 => number(0),
        count => format!("<td class=\"n {class}\">{count}"),
    }
}

fn count_cells(counts: &Counts) -> [String; 5] {
    [
        number(counts.uses),
        number(counts.from_cache),
        number(counts.changes),
        refused(counts.denied, "denied"),
        refused(counts.errors, "errors"),
    ]
}

fn span_cells(span: Option<Span>) -> [String; 2] {
    let time = |time| format!("<td class=t>{}", shown_time(time));
    [time(span.map(|span| span.first)), time(span.map(|span| span.last))]
}

const USES: Series = Series { name: "uses", class: "uses", count: |counts| counts.uses };
const CHANGES: Series =
    Series { name: "changes", class: "changes", count: |counts| counts.changes };
const DENIED: Series = Series { name: "denied", class: "denied", count: |counts| counts.denied };
const ERRORS: Series =
    Series { name: "other errors", class: "errors", count: |counts| counts.errors };

const MAX_BUCKETS: u64 = 60;
const MAX_FILES: usize = 500;
const START: &str = "<!DOCTYPE html><html lang=\"en\"><head><meta charset=\"utf-8\">\
    <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; \
    style-src 'unsafe-inline'\"><meta name=\"viewport\" content=\"width=device-width\">\
    <meta name=\"color-scheme\" content=\"light dark\"><title>Use of keys</title><style>";
const STYLE: &str = "
:root{--back:#fff;--card:#f6f7f9;--text:#1c2330;--soft:#5c6675;--line:#dde1e7;
--uses:#2563a8;--changes:#1f8a70;--denied:#c62f3b;--errors:#b26a00;--queries:#5c6675}
@media screen and (prefers-color-scheme:dark){
:root{--back:#14181f;--card:#1d232d;--text:#e6e9ee;--soft:#9aa5b4;--line:#323a47;
--uses:#6aa9ee;--changes:#4cc3a2;--denied:#ff7a83;--errors:#e8a54a;--queries:#9aa5b4}}
*{box-sizing:border-box}
body{margin:0 auto;padding:24px 20px 60px;max-width:1240px;background:var(--back);
color:var(--text);font:15px/1.45 system-ui,'Segoe UI',Roboto,'Liberation Sans',sans-serif}
h1{margin:0;font-size:26px}h2{margin:36px 0 10px;font-size:18px}
p{margin:6px 0;color:var(--soft)}code{font:13px ui-monospace,'Liberation Mono',monospace}
.warning{color:var(--denied);font-weight:600}.note{margin-top:28px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(170px,1fr));gap:12px;
margin:20px 0}
.tile{background:var(--card);border-left:4px solid var(--c);border-radius:6px;
padding:12px 14px;display:flex;flex-direction:column}
.tile b{font-size:26px;line-height:1.2;font-variant-numeric:tabular-nums}
.tile small{color:var(--soft)}
.uses{--c:var(--uses)}.changes{--c:var(--changes)}.denied{--c:var(--denied)}
.errors{--c:var(--errors)}.queries{--c:var(--queries)}
.charts{display:grid;grid-template-columns:1fr 1fr;gap:12px}
figure{margin:0;background:var(--card);border-radius:6px;padding:14px 16px;min-width:0;
break-inside:avoid}
figure.wide{grid-column:1/-1}
figcaption{display:flex;flex-wrap:wrap;justify-content:space-between;gap:4px 16px;
margin-bottom:10px}
.legend{color:var(--soft);font-size:13px}
.legend i{display:inline-block;width:10px;height:10px;border-radius:2px;background:var(--c);
margin:0 5px 0 10px}
svg{display:block;width:100%;height:auto;font:13px system-ui,'Liberation Sans',sans-serif}
rect{fill:var(--c)}.grid{stroke:var(--line)}.axis{fill:var(--soft)}
.label,.count{fill:var(--text)}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:14px}
th,td{text-align:left;padding:6px 10px;border-bottom:1px solid var(--line);
vertical-align:top;overflow-wrap:anywhere}
th{color:var(--soft);font-weight:600;white-space:nowrap}
tbody tr:hover{background:var(--card)}
.n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
td.t{white-space:nowrap;font-variant-numeric:tabular-nums}
td.path{min-width:180px}
td.denied,td.errors{color:var(--c);font-weight:600}
@media(max-width:760px){.charts{grid-template-columns:1fr}}
@media print{body{max-width:none;padding:0;font-size:11px}table{font-size:10px}
tr{break-inside:avoid}h2{break-after:avoid}.scroll{overflow:visible}
*{-webkit-print-color-adjust:exact;print-color-adjust:exact}}
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_in_every_place() {
        assert_eq!(escape("<a href='x'>&\"\u{1b}"), "&lt;a href=&#39;x&#39;&gt;&amp;&quot;\\u{1b}");
        let page = render(&Summary::default(), "</title><script>", UtcTime { micros: 0 });
        assert!(!page.contains("<script") && page.contains("&lt;script&gt;"));
    }

    #[test]
    fn nothing_is_loaded_from_elsewhere() {
        let page = render(&Summary::default(), "k", UtcTime { micros: 0 });
        let page = page.replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
        for forbidden in ["http", "url(", "@import", "src=", "href=", "<script", "<link", "<img"] {
            assert!(!page.contains(forbidden), "{forbidden}");
        }
    }
}
