-- Benchmarks: how good a model is on files of problems, n samples each. A database of `orchestrator eval` holds one, and
-- no run.

create table benchmark (
    benchmark_id    integer primary key,
    -- Folder of the model, and where its answers came from: the engine's own name.
    model           text    not null,
    engine          text    not null,
    -- As `weight_version.digest`; null where a server does not say what it holds.
    weights_digest  text,
    sample_count    integer not null,
    temperature     real    not null,
    top_p           real    not null,
    max_tokens      integer not null,
    -- Unsigned, as text.
    seed            text    not null,
    -- Everything that changes results, by name, as a JSON object of texts.
    settings_json   text    not null,
    program_version text    not null,
    created_at_ms   integer not null,
    -- When the last sample was there and the results were worked out.
    ended_at_ms     integer,

    constraint benchmark_counts_positive check (sample_count >= 1 and max_tokens >= 1),
    constraint benchmark_sampling_sane check (temperature >= 0 and top_p > 0 and top_p <= 1)
) strict;

create table benchmark_file (
    benchmark_id   integer not null,
    -- Place on the command line, from 1.
    file_id        integer not null,
    -- File name without folder and ending.
    name           text    not null,
    path           text    not null,
    content_sha256 text    not null,

    primary key (benchmark_id, file_id),
    constraint benchmark_file_benchmark foreign key (benchmark_id) references benchmark (benchmark_id)
) strict, without rowid;

create table benchmark_problem (
    benchmark_id  integer not null,
    file_id       integer not null,
    -- Place in the file, from 0.
    ordinal       integer not null,
    problem_id    integer not null,
    prompt_tokens integer not null,

    primary key (benchmark_id, file_id, ordinal),
    constraint benchmark_problem_file
        foreign key (benchmark_id, file_id) references benchmark_file (benchmark_id, file_id),
    constraint benchmark_problem_problem foreign key (problem_id) references problem (problem_id)
) strict, without rowid;

-- Each sample as it came. Undecided ones and errors are neither right nor wrong: no rate counts them.
create table benchmark_sample (
    benchmark_id  integer not null,
    file_id       integer not null,
    ordinal       integer not null,
    -- From 0; names its random stream.
    sample        integer not null,
    token_count   integer not null,
    -- `length`: the token budget ended it.
    finish_reason text    not null,
    verdict       text    not null,
    -- What reached the verdict.
    decided_by    text    not null,
    -- The final answer as written; null where there was none.
    answer        text,
    created_at_ms integer not null,
    -- What the model wrote. The last column, so that nothing else is read past it.
    text          text    not null,

    constraint benchmark_sample_unique primary key (benchmark_id, file_id, ordinal, sample),
    constraint benchmark_sample_problem
        foreign key (benchmark_id, file_id, ordinal) references benchmark_problem (benchmark_id, file_id, ordinal),
    constraint benchmark_sample_finish_reason_known check (finish_reason in ('stop', 'length')),
    constraint benchmark_sample_verdict_known
        check (verdict in ('correct', 'incorrect', 'no_answer', 'undecided', 'error')),
    constraint benchmark_sample_no_answer_settled check (verdict not in ('correct', 'incorrect') or answer is not null)
) strict;

-- What follows from the samples by arithmetic that SQL does not have, written when they are all there: `pass` is pass@k,
-- unbiased; `majority` is majority@k. `low` and `high` are the bootstrap interval over problems, of pass@1 only.
create table benchmark_result (
    benchmark_id integer not null,
    file_id      integer not null,
    metric       text    not null,
    k            integer not null,
    value        real    not null,
    low          real,
    high         real,

    primary key (benchmark_id, file_id, metric, k),
    constraint benchmark_result_file
        foreign key (benchmark_id, file_id) references benchmark_file (benchmark_id, file_id),
    constraint benchmark_result_metric_known check (metric in ('pass', 'majority')),
    constraint benchmark_result_k_positive check (k >= 1),
    constraint benchmark_result_share check (value between 0 and 1),
    constraint benchmark_result_interval check ((low is null) = (high is null) and low <= high)
) strict, without rowid;

-- How often is each problem solved? Null where no sample was settled.
create view benchmark_pass_rate as
select
    b.benchmark_id,
    b.file_id,
    f.name as file,
    b.ordinal,
    p.problem_id,
    p.name as problem_name,
    p.answer as reference_answer,
    count(s.sample) as sample_count,
    coalesce(sum(s.verdict not in ('undecided', 'error')), 0) as settled_count,
    coalesce(sum(s.verdict = 'correct'), 0) as correct_count,
    coalesce(sum(s.verdict = 'no_answer'), 0) as no_answer_count,
    coalesce(sum(s.finish_reason = 'length'), 0) as truncated_count,
    avg(s.token_count) as tokens_mean,
    cast(sum(s.verdict = 'correct') as real) / nullif(sum(s.verdict not in ('undecided', 'error')), 0) as pass_rate
from benchmark_problem b
join benchmark_file f on f.benchmark_id = b.benchmark_id and f.file_id = b.file_id
join problem p on p.problem_id = b.problem_id
left join benchmark_sample s on s.benchmark_id = b.benchmark_id and s.file_id = b.file_id and s.ordinal = b.ordinal
group by b.benchmark_id, b.file_id, b.ordinal;

-- How good is the model on each file, so far? `pass_at_1` is the mean over the problems with a settled sample.
create view benchmark_summary as
select
    r.benchmark_id,
    r.file_id,
    r.file,
    b.model,
    count(*) as problem_count,
    sum(r.pass_rate is not null) as scored_count,
    sum(r.sample_count) as sample_count,
    count(*) * b.sample_count - sum(r.sample_count) as missing_count,
    sum(r.sample_count - r.settled_count) as unsettled_count,
    avg(r.pass_rate) as pass_at_1,
    cast(sum(r.truncated_count) as real) / nullif(sum(r.sample_count), 0) as truncated_frac,
    cast(sum(r.no_answer_count) as real) / nullif(sum(r.sample_count), 0) as no_answer_frac,
    sum(r.tokens_mean * r.sample_count) / nullif(sum(r.sample_count), 0) as tokens_mean
from benchmark_pass_rate r
join benchmark b on b.benchmark_id = r.benchmark_id
group by r.benchmark_id, r.file_id;
