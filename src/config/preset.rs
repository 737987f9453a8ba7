//! The defaults that an algorithm or a rule set brings with it, so that two runs of a comparison differ in one line.

use super::{AdvantageForm, Algorithm, Config, LossMean, Rules, TokenCredit};

impl Config {
    /// The defaults of an algorithm under a rule set: what a configuration that names nothing else has.
    ///
    /// - `deepsearch`: [`Config::default`]; with `rules = "released"` the published advantages (equation 15).
    /// - `grpo`: outcome advantages divided by their standard deviation, one clip bound, mean over each trajectory and
    ///   then over trajectories (arXiv 2402.03300).
    /// - `dapo`: the same advantages with clip-higher, dynamic sampling, overlong shaping and mean over tokens (arXiv
    ///   2503.14476).
    ///
    /// The baselines take all problems, without filter or cache. In a configuration of several layers, one that changes the
    /// algorithm changes what the two presets differ in, and nothing else.
    pub fn preset(algorithm: Algorithm, rules: Rules) -> Config {
        let mut config = Config::default();
        config.run.algorithm = algorithm;
        config.search.rules = rules;
        if algorithm == Algorithm::Deepsearch {
            if rules == Rules::Released {
                config.train.advantage = AdvantageForm::MeanOnly;
            }
            return config;
        }
        config.curriculum.filter = false;
        config.replay.enabled = false;
        config.train.token_credit = TokenCredit::Outcome;
        config.train.advantage = AdvantageForm::MeanStd;
        match algorithm {
            Algorithm::Grpo => {
                config.train.clip_high = config.train.clip_low;
                config.train.loss_mean = LossMean::Trajectory;
                config.train.overlong_buffer_tokens = 0;
            }
            Algorithm::Dapo => config.curriculum.dynamic_sampling = 2,
            Algorithm::Deepsearch => {}
        }
        config
    }
}
