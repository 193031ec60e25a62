//! What the figures were measured on.

use std::fs;
use std::process::Command;

/// One line: processor, memory, kernel, versions.
pub fn description() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let model = model.map_or("unknown processor", |(_, model)| model.trim());
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = meminfo.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok());
    let memory = memory.unwrap_or(0) >> 20;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let kernel = kernel.trim();
    let mut text = format!("{model}, {cpus} CPUs, {memory} GiB, Linux {kernel}");
    // As the distribution names them; elsewhere they stay unnamed.
    for package in ["gocryptfs", "securefs", "cryfs", "encfs"] {
        let query = ["-W", "-f", "${Version}", package];
        let Ok(output) = Command::new("dpkg-query").args(query).output() else { break };
        if output.status.success() {
            text.push_str(&format!(", {package} {}", String::from_utf8_lossy(&output.stdout)));
        }
    }
    text
}
