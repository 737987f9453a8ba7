//! What a server says of itself at `/metrics`, and what a run records of it.
//!
//! A server without that path, or whose numbers have other names, is used all the same: then only sequences are bounded.

use super::admission::Pressure;

/// Names of what [`Engine::take_counts`](crate::inference::Engine::take_counts) returns, for the run's table of metrics.
pub(super) mod name {
    /// Servers in service.
    pub const REPLICAS: &str = "server_replicas";
    /// Times that a server was lost.
    pub const OUTAGES: &str = "server_outages";
    /// Times that a server was brought back to the current weights.
    pub const RETURNS: &str = "server_returns";
    /// Trees that went on at another server.
    pub const MOVED_TREES: &str = "server_moved_trees";
    /// Requests that were answered through the router.
    pub const ROUTED: &str = "server_routed_requests";
    /// Requests that were not, and went straight to a server.
    pub const UNROUTED: &str = "server_unrouted_requests";
    /// Mean number of sequences that the servers computed at once while there was work, over all servers.
    pub const RUNNING_MEAN: &str = "server_running_mean";
    /// The same of those that they held back.
    pub const WAITING_MEAN: &str = "server_waiting_mean";
    /// Largest share of a server's keys and values in use.
    pub const CACHE_PEAK_FRAC: &str = "server_cache_peak_frac";
    /// Share of the prompt tokens that were found in a prefix cache.
    pub const PREFIX_HIT_FRAC: &str = "server_prefix_hit_frac";
    /// Sequences thrown out to make room.
    pub const PREEMPTIONS: &str = "server_preemptions";
    /// Bound on tokens in flight, over all servers.
    pub const TOKEN_LIMIT: &str = "server_token_limit";
}

/// One reading of `/metrics`; counters since the server's start.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Reading {
    pub running: f64,
    pub waiting: f64,
    pub cache_used_frac: f64,
    pub preemptions: f64,
    pub prefix_hits: f64,
    pub prefix_queries: f64,
    /// Tokens whose keys and values the server has room for.
    pub room_tokens: Option<u64>,
}

/// Reads Prometheus' text format; `None` if nothing of vLLM's is in it. Engines of one server are added up.
pub(super) fn parse(text: &str) -> Option<Reading> {
    let mut reading = Reading::default();
    let mut is_vllm = false;
    for line in text.lines().filter_map(|line| line.strip_prefix("vllm:")) {
        let Some((head, value)) = line.rsplit_once(' ') else { continue };
        let Some(value) = value.parse::<f64>().ok().filter(|value| value.is_finite()) else { continue };
        let (name, labels) = head.split_once('{').unwrap_or((head, ""));
        match name {
            "num_requests_running" => reading.running += value,
            "num_requests_waiting" => reading.waiting += value,
            "kv_cache_usage_perc" => reading.cache_used_frac = reading.cache_used_frac.max(value),
            "num_preemptions_total" => reading.preemptions += value,
            "prefix_cache_hits_total" => reading.prefix_hits += value,
            "prefix_cache_queries_total" => reading.prefix_queries += value,
            "cache_config_info" => {
                if let Some(room) = room_tokens(labels) {
                    *reading.room_tokens.get_or_insert(0) += room;
                }
            }
            _ => continue,
        }
        is_vllm = true;
    }
    is_vllm.then_some(reading)
}

/// The server's own count, which knows of models whose layers keep different numbers of tokens; else blocks by their size.
fn room_tokens(labels: &str) -> Option<u64> {
    let number = |name: &str| label(labels, name)?.parse::<u64>().ok();
    number("kv_cache_size_tokens").or_else(|| number("num_gpu_blocks")?.checked_mul(number("block_size")?))
}

fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    let mut rest = labels;
    loop {
        let at = rest.find(name)?;
        // `block_size` is the end of other names, too.
        let is_whole = at == 0 || rest.as_bytes()[at - 1] == b',';
        rest = &rest[at + name.len()..];
        if let Some(value) = rest.strip_prefix("=\"").filter(|_| is_whole) {
            return value.split('"').next();
        }
    }
}

/// What was seen of one server since it was last asked.
#[derive(Debug, Default)]
pub(super) struct Seen {
    last: Option<Reading>,
    total: Totals,
}

/// Sums over readings.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Totals {
    pub readings: u32,
    pub running: f64,
    pub waiting: f64,
    pub cache_peak_frac: f64,
    pub preemptions: f64,
    pub prefix_hits: f64,
    pub prefix_queries: f64,
}

impl Seen {
    /// Notes a reading; `is_busy`: it was taken while there was work, so that it counts in the means. Says what changed
    /// since the one before.
    pub fn note(&mut self, reading: Reading, is_busy: bool) -> Pressure {
        // Counters of a server that was restarted begin again.
        let since = |now: f64, before: f64| if now >= before { now - before } else { now };
        let last = self.last.replace(reading).unwrap_or(reading);
        let preemptions = since(reading.preemptions, last.preemptions);
        let total = &mut self.total;
        total.preemptions += preemptions;
        total.prefix_hits += since(reading.prefix_hits, last.prefix_hits);
        total.prefix_queries += since(reading.prefix_queries, last.prefix_queries);
        total.cache_peak_frac = total.cache_peak_frac.max(reading.cache_used_frac);
        if is_busy {
            total.readings += 1;
            total.running += reading.running;
            total.waiting += reading.waiting;
        }
        Pressure { waiting: reading.waiting, cache_used_frac: reading.cache_used_frac, preemptions }
    }

    /// Whether the server has ever said anything.
    pub fn has_metrics(&self) -> bool {
        self.last.is_some()
    }

    /// What was seen, which begins anew.
    pub fn take(&mut self) -> Totals {
        std::mem::take(&mut self.total)
    }
}

/// The metrics of a run from those of its servers.
pub(super) fn counts(servers: &[Totals]) -> Vec<(&'static str, f64)> {
    let mean = |of: fn(&Totals) -> f64| -> f64 {
        servers.iter().filter(|server| server.readings > 0).map(|s| of(s) / f64::from(s.readings)).sum()
    };
    let sum = |of: fn(&Totals) -> f64| -> f64 { servers.iter().map(of).sum() };
    let mut counts = vec![
        (name::CACHE_PEAK_FRAC, servers.iter().map(|s| s.cache_peak_frac).fold(0.0, f64::max)),
        (name::PREEMPTIONS, sum(|s| s.preemptions)),
    ];
    if servers.iter().any(|server| server.readings > 0) {
        counts.push((name::RUNNING_MEAN, mean(|s| s.running)));
        counts.push((name::WAITING_MEAN, mean(|s| s.waiting)));
    }
    let queries = sum(|s| s.prefix_queries);
    if queries > 0.0 {
        counts.push((name::PREFIX_HIT_FRAC, sum(|s| s.prefix_hits) / queries));
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"# HELP vllm:num_requests_running Number of requests
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a b"} 3.0
vllm:num_requests_running{engine="1",model_name="a b"} 4.0
vllm:num_requests_waiting{engine="0",model_name="policy"} 2.0
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 9.0
vllm:kv_cache_usage_perc{engine="0"} 0.25
vllm:kv_cache_usage_perc{engine="1"} 0.5
vllm:prefix_cache_queries_total{engine="0"} 100.0
vllm:prefix_cache_hits_total{engine="0"} 40.0
vllm:num_preemptions_total{engine="0"} 1.0
vllm:cache_config_info{block_size="16",engine="0",kv_cache_size_tokens="None",num_gpu_blocks="100"} 1.0
vllm:cache_config_info{block_size="16",engine="1",kv_cache_size_tokens="1500",num_gpu_blocks="100"} 1.0
process_open_fds 12.0
"#;

    #[test]
    fn engines_of_one_server_are_added_up() {
        let reading = parse(TEXT).expect("vLLM's");
        let expected = Reading {
            running: 7.0,
            waiting: 2.0,
            cache_used_frac: 0.5,
            preemptions: 1.0,
            prefix_hits: 40.0,
            prefix_queries: 100.0,
            room_tokens: Some(3100),
        };
        assert_eq!(reading, expected);
        assert_eq!(parse("{}"), None);
        assert_eq!(parse("process_open_fds 12.0\n"), None);
        assert_eq!(room_tokens(r#"hash_block_size="8",block_size="4",num_gpu_blocks="5""#), Some(20));
    }

    #[test]
    fn counters_count_from_the_first_reading_and_over_a_restart() {
        let mut seen = Seen::default();
        let first = parse(TEXT).expect("vLLM's");
        assert_eq!(seen.note(first, true).preemptions, 0.0, "what was before us is not ours");
        let later = Reading { preemptions: 4.0, prefix_hits: 100.0, prefix_queries: 180.0, ..first };
        assert_eq!(seen.note(later, true).preemptions, 3.0);
        let restarted = Reading { preemptions: 1.0, prefix_hits: 0.0, prefix_queries: 20.0, ..Reading::default() };
        assert_eq!(seen.note(restarted, false).preemptions, 1.0);
        let total = seen.take();
        assert_eq!((total.preemptions, total.prefix_hits, total.prefix_queries), (4.0, 60.0, 100.0));
        assert_eq!((total.readings, total.running), (2, 14.0));
        let counts = counts(&[total, Totals::default()]);
        let of = |name: &str| counts.iter().find(|(its, _)| *its == name).map(|(_, value)| *value);
        assert_eq!(of("server_prefix_hit_frac"), Some(0.6));
        assert_eq!(of("server_running_mean"), Some(7.0));
        assert_eq!(seen.take(), Totals::default());
    }
}
