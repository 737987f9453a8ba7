//! The rules, each a query for what breaks it: one column, `place`, in words.

/// One rule.
pub struct Rule {
    /// Its name, which `db check` prints.
    pub name: &'static str,
    /// What must hold.
    pub meaning: &'static str,
    /// The rows for which it does not.
    pub broken: &'static str,
}

/// All rules, in the order in which a run writes what they are about.
pub const RULES: &[Rule] = &[
    Rule {
        name: "run_over",
        meaning: "a run that is done has no round that is not, and no step but those that it was told to do without",
        broken: "
            select 'run ' || r.run_id || ', step ' || s.step_id as place
            from run r
            join step s on s.run_id = r.run_id
            left join round o on o.run_id = s.run_id and o.round_id = s.round_id
            where r.status = 'done' and s.status <> 'done' and s.step_id <= coalesce(o.last_step_id, s.step_id)
            union all
            select 'run ' || r.run_id || ', round ' || o.round_id
            from run r join round o on o.run_id = r.run_id
            where r.status = 'done' and o.status <> 'done'",
    },
    Rule {
        name: "steps_in_order",
        meaning: "the steps of a run are numbered without gaps, and end in their order",
        broken: "
            select 'run ' || s.run_id || ', step ' || s.step_id as place
            from step s
            where s.step_id > 1
                and not exists (select 1 from step b where b.run_id = s.run_id and b.step_id = s.step_id - 1)
            union all
            select 'run ' || s.run_id || ', step ' || s.step_id || ' is running'
            from step s
            where s.status = 'running'
                and exists (
                    select 1 from step l where l.run_id = s.run_id and l.step_id > s.step_id and l.status = 'done'
                )",
    },
    Rule {
        name: "step_in_round",
        meaning: "a step lies among the steps of its round; after them only one that was cut off before the run was given \
                  fewer",
        broken: "
            select 'run ' || s.run_id || ', step ' || s.step_id || ' of round ' || s.round_id as place
            from step s
            left join round o on o.run_id = s.run_id and o.round_id = s.round_id
            where exists (select 1 from round a where a.run_id = s.run_id)
                and (o.run_id is null or s.step_id < o.first_step_id
                     or (s.status = 'done' and s.step_id > o.last_step_id))",
    },
    Rule {
        name: "plan_whole",
        meaning: "a step has as many slots as it has problems, numbered from 0",
        broken: "
            select 'run ' || s.run_id || ', step ' || s.step_id as place
            from step s
            join (
                select run_id, step_id, count(*) as slots, min(slot) as first, max(slot) as last
                from step_slot group by run_id, step_id
            ) l on l.run_id = s.run_id and l.step_id = s.step_id
            where l.slots <> s.problem_count or l.first <> 0 or l.last <> l.slots - 1",
    },
    Rule {
        name: "tree_in_slot",
        meaning: "each tree belongs to one slot of its step's plan, for the same problem and of the same kind",
        broken: "
            select 'tree ' || t.tree_id as place
            from tree t
            left join step_slot l on l.run_id = t.run_id and l.step_id = t.step_id and l.slot = t.slot
            where exists (select 1 from step_slot a where a.run_id = t.run_id and a.step_id = t.step_id)
                and (l.slot is null or l.problem_id <> t.problem_id or l.kind <> t.kind)",
    },
    Rule {
        name: "tree_once",
        meaning: "no slot has two trees",
        broken: "
            select 'run ' || run_id || ', step ' || step_id || ', slot ' || slot || ': ' || count(*) || ' trees' as place
            from tree not indexed
            group by run_id, step_id, slot
            having count(*) > 1",
    },
    Rule {
        name: "slots_grown",
        meaning: "every slot of a step that is over has its tree",
        broken: "
            select 'run ' || l.run_id || ', step ' || l.step_id || ', slot ' || l.slot as place
            from step s
            join step_slot l on l.run_id = s.run_id and l.step_id = s.step_id
            left join tree t on t.run_id = l.run_id and t.step_id = l.step_id and t.slot = l.slot
            where s.status = 'done' and t.tree_id is null",
    },
    Rule {
        name: "tokens_add_up",
        meaning: "a step that is over has sampled what its trees have sampled",
        broken: "
            select 'run ' || s.run_id || ', step ' || s.step_id || ': ' || s.generated_tokens || ', its trees '
                || coalesce(sum(t.generated_tokens), 0) as place
            from step s
            left join tree t on t.run_id = s.run_id and t.step_id = s.step_id
            where s.status = 'done'
            group by s.run_id, s.step_id
            having s.generated_tokens <> coalesce(sum(t.generated_tokens), 0)",
    },
    Rule {
        name: "nodes_counted",
        meaning: "a tree has as many nodes as it says, numbered from 0",
        broken: "
            select 'tree ' || t.tree_id as place
            from tree t
            left join (
                select tree_id, count(*) as nodes, min(node_id) as first, max(node_id) as last from node group by tree_id
            ) n on n.tree_id = t.tree_id
            where coalesce(n.nodes, 0) <> t.node_count or n.first <> 0 or n.last <> n.nodes - 1",
    },
    Rule {
        name: "depth_by_one",
        meaning: "a node is one deeper than its parent, and its tag is its parent's with one number more",
        broken: "
            select 'tree ' || c.tree_id || ', node ' || c.node_id as place
            from node c
            join node p on p.tree_id = c.tree_id and p.node_id = c.parent_node_id
            where c.depth <> p.depth + 1 or substr(c.tag, 1, length(p.tag) + 1) <> p.tag || '.'",
    },
    Rule {
        name: "terminal_is_leaf",
        meaning: "a terminal is never expanded, and has a verdict",
        broken: "
            select 'tree ' || p.tree_id || ', node ' || p.node_id as place
            from node c
            join node p on p.tree_id = c.tree_id and p.node_id = c.parent_node_id
            where p.is_terminal = 1
            union
            select 'tree ' || n.tree_id || ', node ' || n.node_id
            from node n
            where n.is_terminal = 1 and n.verdict is null",
    },
    Rule {
        name: "backed_up_once",
        meaning: "a terminal is backed up at most once",
        broken: "
            select 'tree ' || tree_id || ', node ' || leaf_node_id as place
            from trajectory not indexed
            group by tree_id, leaf_node_id
            having count(*) > 1",
    },
    Rule {
        name: "trajectories_numbered",
        meaning: "the trajectories of a tree are numbered from 0 without gaps",
        broken: "
            select 'tree ' || tree_id as place
            from trajectory
            group by tree_id
            having min(ordinal) <> 0 or max(ordinal) <> count(*) - 1",
    },
    Rule {
        name: "paths_connected",
        meaning: "a trajectory goes from the prompt's child to its leaf, parent by parent",
        broken: "
            select 'tree ' || p.tree_id || ', trajectory ' || p.ordinal || ', depth ' || p.depth as place
            from trajectory_node p
            join node n on n.tree_id = p.tree_id and n.node_id = p.node_id
            left join trajectory_node above
                on above.tree_id = p.tree_id and above.ordinal = p.ordinal and above.depth = p.depth - 1
            where n.depth <> p.depth
                or n.parent_node_id is not (case when p.depth = 1 then 0 else above.node_id end)
            union all
            select 'tree ' || j.tree_id || ', trajectory ' || j.ordinal
            from trajectory j
            left join trajectory_node p on p.tree_id = j.tree_id and p.ordinal = j.ordinal and p.node_id = j.leaf_node_id
            where p.depth is not (
                select max(l.depth) from trajectory_node l where l.tree_id = j.tree_id and l.ordinal = j.ordinal
            )",
    },
    Rule {
        name: "trained_settled",
        meaning: "what is trained on ends in a terminal that was found right, wrong or without an answer",
        broken: "
            select 'tree ' || j.tree_id || ', trajectory ' || j.ordinal || ': ' || j.verdict as place
            from trajectory j
            left join node n on n.tree_id = j.tree_id and n.node_id = j.leaf_node_id
            where j.verdict not in ('correct', 'incorrect', 'no_answer')
                or n.is_terminal is not 1 or n.verdict is not j.verdict",
    },
    Rule {
        name: "reward_by_verdict",
        meaning: "a correct answer is rewarded, an incorrect one is not",
        broken: "
            select 'tree ' || tree_id || ', trajectory ' || ordinal || ': ' || verdict || ' for ' || reward as place
            from trajectory
            where (verdict = 'correct' and not reward > 0) or (verdict = 'incorrect' and reward > 0)",
    },
    Rule {
        name: "visits_add_up",
        meaning: "the prompt and every terminal were visited once for each backup, no node less; none more where only \
                  backups visit",
        broken: "
            select 'tree ' || n.tree_id || ', node ' || n.node_id || ': ' || n.visits || ' visits, '
                || coalesce(b.backups, 0) || ' backups' as place
            from node n
            join tree t on t.tree_id = n.tree_id
            join run r on r.run_id = t.run_id
            left join (
                select tree_id, node_id, count(*) as backups from trajectory_node group by tree_id, node_id
                union all
                select tree_id, 0, count(*) from trajectory group by tree_id
            ) b on b.tree_id = n.tree_id and b.node_id = n.node_id
            where n.visits < coalesce(b.backups, 0)
                or (n.visits > coalesce(b.backups, 0)
                    and (n.node_id = 0 or n.is_terminal = 1 or t.kind <> 'search'
                         or instr(r.config_toml, 'visits = \"backups\"') > 0))",
    },
    Rule {
        name: "solved_by_node",
        meaning: "a tree is solved if and only if a correct answer was sampled in it",
        broken: "
            select 'tree ' || t.tree_id as place
            from tree t
            where t.is_solved <> exists (
                select 1
                from node n
                where n.tree_id = t.tree_id and n.verdict = 'correct'
                    and not exists (
                        select 1
                        from trajectory j
                        where j.tree_id = n.tree_id and j.leaf_node_id = n.node_id and j.provenance = 'cached'
                    )
            )",
    },
    Rule {
        name: "content_fits",
        meaning: "kept tokens and logprobs are as many as the node has tokens",
        broken: "
            select 'tree ' || c.tree_id || ', node ' || c.node_id as place
            from node_content c
            join node n on n.tree_id = c.tree_id and n.node_id = c.node_id
            where length(c.tokens) <> 4 * n.token_count or (n.node_id = 0) > (c.logprobs is null)",
    },
    Rule {
        name: "trained_content_kept",
        meaning: "what a resume or a replay may train on has its tokens and logprobs, unless they were dropped on purpose",
        broken: "
            select 'tree ' || p.tree_id || ', node ' || p.node_id as place
            from trajectory_node p
            join tree t on t.tree_id = p.tree_id
            left join retention r on r.run_id = t.run_id
            left join node_content c on c.tree_id = p.tree_id and c.node_id = p.node_id
            where (c.tokens is null and t.step_id > coalesce(r.text_step_id, 0))
                or (c.logprobs is null and t.step_id > max(coalesce(r.text_step_id, 0), coalesce(r.logprobs_step_id, 0)))",
    },
    Rule {
        name: "weights_in_order",
        meaning: "weight versions count up without gaps, each made by a later step than the one before",
        broken: "
            select 'run ' || w.run_id || ', weights ' || w.weight_version as place
            from weight_version w
            left join weight_version b on b.run_id = w.run_id and b.weight_version = w.weight_version - 1
            where w.weight_version > 0 and (b.run_id is null or not w.step_id > coalesce(b.step_id, 0))
            union all
            select 'run ' || s.run_id || ', step ' || s.step_id || ' makes weights ' || s.produced_weight_version
            from step s
            left join weight_version w on w.run_id = s.run_id and w.weight_version = s.produced_weight_version
            where s.produced_weight_version is not null
                and (s.produced_weight_version <= s.search_weight_version or w.step_id is not s.step_id)",
    },
    Rule {
        name: "weights_known",
        meaning: "the weights that sampled a node are recorded, and no newer than the run's",
        broken: "
            select 'tree ' || n.tree_id || ', node ' || n.node_id || ': weights ' || n.weight_version as place
            from node n
            join tree t on t.tree_id = n.tree_id
            left join weight_version w on w.run_id = t.run_id and w.weight_version = n.weight_version
            where n.node_id > 0 and w.run_id is null",
    },
    Rule {
        name: "weights_confirmed",
        meaning: "weights that were searched with had been confirmed by the server",
        broken: "
            select distinct 'run ' || t.run_id || ', weights ' || w.weight_version as place
            from tree t
            join weight_version w on w.run_id = t.run_id and w.weight_version = t.weight_version_max
            where w.confirmed_at_ms is null
                -- Those of the last finished step a resume writes anew, later ones are of a step that is not over: these are
                -- about to be confirmed, and a kill may come before that.
                and w.weight_version < (
                    select max(s.produced_weight_version) from step s where s.run_id = w.run_id and s.status = 'done'
                )",
    },
    Rule {
        name: "metrics_once",
        meaning: "every step that is over has its metrics, and no other step has any",
        broken: "
            select 'run ' || s.run_id || ', step ' || s.step_id || ' has none' as place
            from step s
            where s.status = 'done'
                and exists (select 1 from metric m where m.run_id = s.run_id and m.name = 'wall_s')
                and not exists (
                    select 1 from metric m where m.run_id = s.run_id and m.name = 'wall_s' and m.step_id = s.step_id
                )
            union all
            select distinct 'run ' || m.run_id || ', step ' || m.step_id || ' is not over'
            from metric m
            left join step s on s.run_id = m.run_id and s.step_id = m.step_id
            where m.step_id > 0 and s.status is not 'done'",
    },
    Rule {
        name: "solutions_correct",
        meaning: "a kept solution was found right in its tree, and is of the same problem",
        broken: "
            select 'solution ' || s.solution_id as place
            from solution s
            join tree t on t.tree_id = s.tree_id
            where t.problem_id <> s.problem_id or t.run_id is not s.run_id
                or not exists (select 1 from node n where n.tree_id = t.tree_id and n.verdict = 'correct')
            union all
            select 'solution ' || s.solution_id || ' has no answer'
            from solution s
            where trim(s.answer) = '' and trim((select p.answer from problem p where p.problem_id = s.problem_id)) <> ''",
    },
    Rule {
        name: "replays_known",
        meaning: "a trajectory is a replay if and only if it names the solution, which is of its problem and of its run or \
                  imported",
        broken: "
            select 'tree ' || j.tree_id || ', trajectory ' || j.ordinal as place
            from trajectory j
            join tree t on t.tree_id = j.tree_id
            left join solution s on s.solution_id = j.solution_id
            where j.solution_id is not null
                and (j.provenance <> 'cached' or s.problem_id is not t.problem_id
                     or (s.run_id is not null and s.run_id <> t.run_id))
            union all
            select 'tree ' || j.tree_id || ', trajectory ' || j.ordinal
            from tree t
            join trajectory j on j.tree_id = t.tree_id
            where t.kind = 'replay' and j.provenance = 'cached' and j.solution_id is null",
    },
    Rule {
        name: "evaluations_add_up",
        meaning: "a measurement has the problems and correct answers that it says",
        broken: "
            select 'run ' || e.run_id || ', step ' || e.step_id as place
            from evaluation e
            left join (
                select run_id, step_id, count(*) as problems, sum(correct_count) as correct
                from evaluation_problem group by run_id, step_id
            ) p on p.run_id = e.run_id and p.step_id = e.step_id
            where coalesce(p.problems, 0) <> e.problem_count or coalesce(p.correct, 0) <> e.correct_count",
    },
    Rule {
        name: "round_decided",
        meaning: "a round that trains has decided about each of its candidates",
        broken: "
            select 'run ' || o.run_id || ', round ' || o.round_id as place
            from round o
            left join (
                select run_id, round_id, count(*) as problems, sum(reason is null) as open
                from round_problem group by run_id, round_id
            ) p on p.run_id = o.run_id and p.round_id = o.round_id
            where o.status <> 'filtering' and (coalesce(p.problems, 0) <> o.candidate_count or p.open > 0)",
    },
];
