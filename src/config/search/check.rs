//! Ranges of the keys of `[search]`, for whoever searches with them: a configuration's own rules are in `validate`.

use super::SearchConfig;

impl SearchConfig {
    /// Everything wrong with this section, one message a problem, each naming its key; empty if it can be searched with.
    pub fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut require = |holds: bool, key: &str, value: &dyn std::fmt::Display, rule: &str| {
            if !holds {
                found.push(format!("`search.{key}` is `{value}`, but must be {rule}"));
            }
        };
        for (key, value) in [
            ("width", self.width),
            ("step_tokens", self.step_tokens),
            ("max_depth", self.max_depth),
            ("trajectories", self.trajectories),
            ("first_width", self.first_width),
        ] {
            require(value >= 1, key, &value, "at least 1");
        }
        for (key, value) in [
            ("frontier_value_weight", self.frontier_value_weight),
            ("frontier_entropy_weight", self.frontier_entropy_weight),
            ("frontier_depth_weight", self.frontier_depth_weight),
            ("frontier_self_value_weight", self.frontier_self_value_weight),
        ] {
            require(value.is_finite(), key, &value, "a finite number");
        }
        for (key, value) in
            [("uct_lambda", self.uct_lambda), ("temperature", self.temperature), ("max_seconds", self.max_seconds)]
        {
            require(value.is_finite() && value >= 0.0, key, &value, "a finite number, at least 0");
        }
        require((0.0..=1.0).contains(&self.gamma_min), "gamma_min", &self.gamma_min, "between 0 and 1");
        require(
            (-1.0..=0.0).contains(&self.incomplete_reward),
            "incomplete_reward",
            &self.incomplete_reward,
            "between -1 and 0",
        );
        require(self.top_p > 0.0 && self.top_p <= 1.0, "top_p", &self.top_p, "above 0 and at most 1");
        let expansion_tokens = u64::from(self.width) * u64::from(self.step_tokens);
        require(
            self.max_generated_tokens == 0 || self.max_generated_tokens >= expansion_tokens,
            "max_generated_tokens",
            &self.max_generated_tokens,
            &format!("0 or at least `search.width * search.step_tokens` = {expansion_tokens}"),
        );
        if let Some(dynamic) = self.dynamic_width {
            require(
                dynamic.min_width >= 1 && dynamic.min_width <= self.width,
                "dynamic_width.min_width",
                &dynamic.min_width,
                &format!("between 1 and `search.width` = {}", self.width),
            );
            require(
                self.width <= self.max_depth,
                "width",
                &self.width,
                &format!("at most `search.max_depth` = {} with a dynamic width", self.max_depth),
            );
        }
        if let Some(adaptive) = self.entropy_width {
            require(
                adaptive.min_width >= 1 && adaptive.min_width <= self.width,
                "entropy_width.min_width",
                &adaptive.min_width,
                &format!("between 1 and `search.width` = {}", self.width),
            );
            require(
                adaptive.low_nats.is_finite() && adaptive.low_nats >= 0.0,
                "entropy_width.low_nats",
                &adaptive.low_nats,
                "a finite number, at least 0",
            );
            require(
                // A lower bound that is no number has its own message.
                adaptive.high_nats.is_finite()
                    && (adaptive.low_nats.is_nan() || adaptive.high_nats > adaptive.low_nats),
                "entropy_width.high_nats",
                &adaptive.high_nats,
                &format!("a finite number above `search.entropy_width.low_nats` = {}", adaptive.low_nats),
            );
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::search::{DynamicWidth, EntropyWidth};

    #[test]
    fn each_bad_value_is_named() {
        assert_eq!(SearchConfig::default().problems(), Vec::<String>::new());
        let good = SearchConfig::default();
        let by_entropy = |min_width, low_nats, high_nats| SearchConfig {
            entropy_width: Some(EntropyWidth { min_width, low_nats, high_nats }),
            ..SearchConfig::default()
        };
        let cases: [(&str, SearchConfig); 20] = [
            ("width", SearchConfig { width: 0, ..good.clone() }),
            ("step_tokens", SearchConfig { step_tokens: 0, ..good.clone() }),
            ("max_depth", SearchConfig { max_depth: 0, ..good.clone() }),
            ("trajectories", SearchConfig { trajectories: 0, ..good.clone() }),
            ("uct_lambda", SearchConfig { uct_lambda: -1.0, ..good.clone() }),
            ("gamma_min", SearchConfig { gamma_min: f64::NAN, ..good.clone() }),
            ("frontier_value_weight", SearchConfig { frontier_value_weight: f64::INFINITY, ..good.clone() }),
            ("frontier_entropy_weight", SearchConfig { frontier_entropy_weight: f64::NAN, ..good.clone() }),
            ("frontier_depth_weight", SearchConfig { frontier_depth_weight: f64::NAN, ..good.clone() }),
            ("frontier_self_value_weight", SearchConfig { frontier_self_value_weight: f64::NAN, ..good.clone() }),
            ("incomplete_reward", SearchConfig { incomplete_reward: 0.5, ..good.clone() }),
            ("temperature", SearchConfig { temperature: -0.1, ..good.clone() }),
            ("top_p", SearchConfig { top_p: 0.0, ..good.clone() }),
            ("max_generated_tokens", SearchConfig { max_generated_tokens: 2047, ..good.clone() }),
            ("max_seconds", SearchConfig { max_seconds: f64::NAN, ..good.clone() }),
            (
                "dynamic_width.min_width",
                SearchConfig { dynamic_width: Some(DynamicWidth { min_width: 0, decay: 1 }), ..good.clone() },
            ),
            ("first_width", SearchConfig { first_width: 0, ..good.clone() }),
            ("entropy_width.min_width", by_entropy(9, 0.1, 0.5)),
            ("entropy_width.low_nats", by_entropy(1, -0.1, 0.5)),
            ("entropy_width.high_nats", by_entropy(1, 0.5, 0.5)),
        ];
        for (key, config) in cases {
            let problems = config.problems();
            assert_eq!(problems.len(), 1, "{key}: {problems:?}");
            assert!(problems[0].starts_with(&format!("`search.{key}` is `")), "{}", problems[0]);
        }
        let narrow = SearchConfig {
            max_depth: 4,
            dynamic_width: Some(DynamicWidth { min_width: 1, decay: 1 }),
            ..SearchConfig::default()
        };
        assert_eq!(
            narrow.problems(),
            ["`search.width` is `8`, but must be at most `search.max_depth` = 4 with a dynamic width"]
        );
    }
}
