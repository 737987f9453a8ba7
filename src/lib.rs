//! DeepSearch (arXiv 2509.25454): Monte Carlo tree search inside RL training of small reasoning models.
//!
//! This page is the architecture. The paper's idea in one sentence: where ordinary RL draws independent samples for a
//! problem, this searches a tree of partial answers, and trains on the branches that turned out right and on the most
//! confident of those that turned out wrong.
//!
//! # The loop
//!
//! ```text
//! problem, if hard -> prompt -> tree: choose a leaf -> generate -> verify -> back up, until enough answers are backed up
//!         -> trajectories with a value per node -> advantages -> packed batch -> policy update
//!         -> weights on disk, numbered and checksummed -> reload, confirmed by the server -> next problem
//! ```
//!
//! # Tiers
//!
//! A file imports from its own part and from lower tiers. Parts of one tier do not know each other; what they exchange
//! are the nouns in [`types`], and only [`run`] knows two neighbours. `tests/architecture.rs` checks it.
//!
//! | tier | parts | |
//! | --- | --- | --- |
//! | 3 | cli, main | parse, call, print |
//! | 2 | [`run`], [`report`], [`serve`] | the loop; reading results back; pages for a browser |
//! | 1 | [`search`] [`verify`] [`inference`] [`trainer`] [`store`] [`data`] | one job each |
//! | 0 | [`types`] [`config`] [`rng`] [`error`] | plain data: no files, no network, no async |
//!
//! # What is deliberately absent
//!
//! - [`search`] never waits, reads no clock and sees no text: it says what it wants and is given it. Same seed and same
//!   continuations, same tree.
//! - Only [`trainer`] knows libtorch, only [`store`] knows SQL, only [`inference`] knows HTTP, and only
//!   `inference/retry.rs` names `backoff`.
//! - Nobody reads a shared "current version" of the weights: a [`types::WeightVersion`] travels as a value with all
//!   that was made under it.
//! - What a model wrote, and what a problem says, is data: it can be recorded as bad, and never ends a run.
//!
//! # To change
//!
//! The score of a leaf: [`search`]. What a correct answer is: [`verify`]. The objective: [`trainer`]. Another server:
//! one more [`inference::Engine`]. A column: a new migration and its file in [`store`]. A setting: its struct in
//! [`config`] and the files in `configs/`. A question of the data: a view and [`report`].
//!
//! # Map
//!
//! In the order in which a problem meets them.
//!
//! ```text
//! main.rs                  the `orchestrator` command: failure to text and exit code
//! lib.rs                   this page
//! telemetry.rs             where tracing goes
//!
//! cli/mod.rs               subcommands; reads the configuration file
//! cli/{run,filter,train,sft,solutions,db}.rs    one subcommand each: arguments and one `run`
//! cli/{eval,inspect,problems,model,serve,report,watch,export}.rs  likewise
//! cli/bench/{mod,train,rollout,learn}.rs  how fast it is here, what learns faster: arguments and a table
//! cli/session.rs           what `run`, `filter` and `eval` share: runtime, log, signals
//! cli/verify/{mod,lines,audit}.rs      lines in, verdicts out; the answers of a run, graded again
//! cli/generate/{mod,talk,answer}.rs     a prompt in, text out: arguments, turns, one answer as it is sampled
//! cli/progress.rs          the bar and one line per step
//! cli/printer.rs           the only place that writes to the terminal
//!
//! types/mod.rs             the nouns that travel between parts
//! types/ids.rs             ids and step numbers as types of their own
//! types/tokens.rs          prompts, continuations, what is asked of an engine
//! types/trajectory.rs      root-to-leaf paths with a value per node, in groups of one tree
//! types/verdict.rs         correct, incorrect, no answer, undecided, error
//! types/weights.rs         weight versions, and what was written for one
//! config/mod.rs            the sections of the configuration
//! config/{curriculum,data,inference,run,train,verify}.rs   one section each
//! config/search/{mod,options,rules,check}.rs   the section of the search, its choices, rule sets and ranges
//! config/preset.rs         defaults that an algorithm or a rule set brings
//! config/source.rs         a file and those it builds on
//! config/{parse,keys,render,error}.rs  TOML to settings and back, with every mistake named
//! config/validate/{mod,train,budgets}.rs   ranges, and what has to fit together
//! error.rs                 failure classes, exit codes, hints
//! rng.rs                   the only place where randomness starts
//!
//! run/mod.rs               start and end: the wiring point
//! run/problems.rs          problem files to prompts
//! run/work.rs              the whole of a run: rounds, steps, from wherever the store says
//! run/curriculum.rs        a round: measure, keep the hard problems, plan its steps
//! run/explore.rs           one tree: next, generate, verify, supply
//! run/rollout.rs           whole answers instead of a tree, cached solutions among them
//! run/judge.rs             an answer's tokens to verdict and defect
//! run/memory_plan.rs       one GPU for a server and the trainer
//! run/step.rs              one training step: search, then learn
//! run/publish.rs           new weights: export, record, reload, canary, confirm
//! run/record.rs            domain values to rows
//! run/evaluate.rs          accuracy on held-out problems
//! run/benchmark/{mod,sampler,settings}.rs  a model on files of problems: samples, and what may not change meanwhile
//! run/bench/{mod,batch,shape,file,flops,machine,error}.rs  updates with what they took: on which trees, how many
//! run/bench/rollout/{mod,ground,figures}.rs  the same trees grown in several ways, with what they took
//! run/bench/rollout/{recorder,lock_step,replay,made_up}.rs  what passes, all at once, without search, without a model
//!                          operations, how much memory
//! run/learn/{mod,suite,plan,recipe,execute,error}.rs  algorithms x seeds x tasks: what is asked, which runs that is, base
//!                          models made from nothing, runs as processes of their own
//! run/retention.rs         which nodes keep tokens and text, and until when
//! run/audit.rs             what the database says of weights on disk and of kept solutions, looked at
//! run/flight.rs            much at once, but no more than keeps the engine busy
//! run/{checkpoints,restore,resume}.rs  every n steps; the trainer as it was; which run goes on
//! run/offline.rs           recorded updates again, without a server
//! run/supervise.rs         supervised warm start on worked examples
//! run/tensorboard/{mod,event_file,scalars}.rs  event files: kept up to date beside the run, their format, rows to tags
//! run/engine.rs            trainer and engine of a run; the embedded engine
//! run/{event,error,lock,meter,shutdown}.rs   what is seen of a run, why it ends, one process per folder, when
//!                          generation was running, orderly stop
//!
//! data/mod.rs              problems and prompts
//! data/{problem,jsonl,parquet,published}.rs  problem files, and which field of them holds what
//! data/{prompt,template,tokenizer}.rs  a problem becomes token ids, once
//! data/{generate,chain,worked,draw}.rs made-up problems, those of several steps, and the way to their answers
//! data/example.rs          worked examples for supervised training
//! data/order.rs            which problems a step works on
//! data/error.rs            what can go wrong with them
//!
//! search/mod.rs            the tree of one problem: invariants
//! search/tree.rs           the state machine: next, supply
//! search/{node,terminal,entropy}.rs    a node, when it is a leaf, how sure the policy was
//! search/{backup,uct,frontier}.rs      what a leaf brings its path; which sibling; which node of the whole tree
//! search/{budget,event,harvest,error}.rs   when to stop, what happened, what is trained on
//!
//! inference/mod.rs         the trait Engine: generate, score, load weights
//! inference/{error,retry}.rs           what can go wrong with a server, and what is tried again
//! inference/vllm/mod.rs    the engine on vLLM servers
//! inference/vllm/{wire,client,access}.rs   the JSON, one call, to whom and with what key
//! inference/vllm/{greet,probe,launch}.rs   who is there, which logprobs, a server of our own
//! inference/vllm/{fleet,places}.rs     all servers, which tree is where
//! inference/vllm/replica/{mod,health,weights}.rs  one server: what may be sent to it, whether it answers, what it holds
//! inference/vllm/{admission,metrics,keeper}.rs  how much may be in flight, what servers say of it, who is lost and comes back
//! inference/vllm/{reload,score}.rs     new weights, and whether servers agree on them
//! inference/vllm/router.rs a router in front of the servers, and whose answers count
//! inference/vllm/plain.rs  a load generator, to be measured against
//!
//! verify/{mod,verifier}.rs is this answer right
//! verify/extract/{mod,boxes,fallback,library,number}.rs  where the answer stands: boxes, phrases, as Math-Verify reads
//! verify/latex.rs          LaTeX as tokens
//! verify/{expr,answer,budget}.rs           an expression as a tree, what stands around it, work in steps and not in time
//! verify/parse/{mod,prepare,relation,bracket,expression,name,number,words,mark,loose,tests}.rs  tokens to an answer
//! verify/compare/{mod,structure,relation,assignment,bounds,interval,unit,choice,letters}.rs  same or not
//! verify/compare/{late,values,definition,witness,renaming,count,rewrite}.rs  proofs that what is left differs
//! verify/algebra/mod.rs    are two expressions the same number or function, and how that is known
//! verify/algebra/{rational,poly,form,known}.rs quotients of polynomials in generators; which of them are not zero
//! verify/algebra/{convert,power,calls,circular,integer}.rs how expressions get there: powers, functions, factors
//! verify/algebra/{ball,elementary}.rs  real numbers as balls with proven bounds
//! verify/algebra/{numeric,numeric_calls,constant,points,determinant}.rs values as balls: numbers, functions at points
//! verify/algebra/tower.rs  sizes of numbers that no digits can hold
//! verify/algebra/tests/{mod,hazards,identities,random,balls}.rs  known identities, hostile ones, random ones
//! verify/grader.rs         the verifier, and Math-Verify where it cannot decide
//! verify/sidecar/{mod,process}.rs      Math-Verify: a pool of Python processes, one of them
//! verify/quality/{mod,repetition,garbled}.rs  bad data: loops, noise, broken characters
//!
//! trainer/mod.rs           handle of the trainer thread
//! trainer/thread.rs        the thread that owns model and optimizer
//! trainer/advantage.rs     node values to advantages
//! trainer/pack.rs          trees to packed batches
//! trainer/minibatch.rs     groups to the batches of each update; trainer against engine
//! trainer/{learner,supervise}.rs       one training step, one supervised step
//! trainer/model/{mod,config,load,init,attention,mlp,rope}.rs   Llama, Qwen2, Qwen3
//! trainer/model/{tree_attention,flash}.rs  attention over a forest without a mask; the kernels for it
//! trainer/backprop.rs      the decoder forward and backward, its activations kept or computed again
//! trainer/{logprob,loss,objective}.rs  chunked projection, clipped objective, the same as tensors
//! trainer/{optim,params}.rs            AdamW, fp32 masters
//! trainer/{memory,free_memory,retry}.rs  what a step takes and what there is; memory ran out: half the budget, again
//! trainer/operator.rs      libtorch operators that tch does not expose
//! trainer/{lora,peft}.rs    adapters: what they begin with and add up to, their files
//! trainer/generate/mod.rs  the sampler: continuous batching
//! trainer/generate/{group,draw}.rs     a request and its siblings, a token from a row
//! trainer/generate/{block,cache}.rs    keys and values, and the prefix tree that shares them
//! trainer/generate/{forward,pointwise}.rs  rows of many texts through the decoder
//! trainer/generate/attention/{mod,tile,kernel,isa}.rs  attention on the processor, the same bits in any company
//! trainer/generate/product/{mod,panel,kernel,lanes}.rs  matrix products, likewise
//! trainer/generate/{isa,workers}.rs    instruction sets, threads that watch for work
//! trainer/{export,checkpoint,folder,tensor_file}.rs   files, visible only when complete
//! trainer/{device,error,report}.rs     where to compute, what can go wrong, what a step says of itself
//!
//! store/mod.rs             SQLite: owners, what survives
//! store/{open,writer,codec,error}.rs   one writer, grouped commits, values to cells
//! store/{run,problem,round,step,step_slot,weight,tree,solution,evaluation,benchmark,metric}.rs  rows of that table, in
//! store/round_write.rs      a round goes on: measured, decided, over
//! store/{tree_read,view,view_training}.rs  rows out
//! store/regrow.rs          failed trees of a step that is taken up again go
//! store/prune.rs           tokens and text of old steps go
//! store/check/{mod,rules}.rs   does everything fit together: the rules
//! store/size.rs            what takes the room; vacuum
//! store/recorded.rs        trees as the groups that were recorded, for a resume
//! store/{tree_page,problem_page,series,tree_shape}.rs  what pages ask: parts of lists, curves, a tree without texts
//! store/stamp.rs           has a database changed, is it still the same file
//! store/export_read.rs     what exports read: figures since a step, problems, results of a benchmark
//! store/plan_test.rs       hot statements use their indexes
//!
//! report/mod.rs            reading results back for people
//! report/benchmark/{mod,votes,statistics,table}.rs  samples to pass@k, majority@k and intervals
//! report/learn/{mod,read,curve,compare,table,search,plot}.rs  runs side by side: curves over seeds, tokens to a level, drawn
//! report/card/{mod,text,settings}.rs  model cards: what is known of weights, as Markdown, settings without paths
//! report/database.rs       findings of a check, sizes, what was dropped
//! report/{listing,table,tree,text}.rs  tables, one tree, foreign text made harmless
//! report/{watch,summary}.rs            a run at a glance, for a terminal and as Markdown
//!
//! serve/mod.rs             pages for a browser: listen, stop
//! serve/{router,guard,error}.rs        addresses; who is answered; what can go wrong
//! serve/{api,curves,tree,text,prometheus}.rs  what is answered: lists, figures, one tree, tokens as text, Prometheus
//! serve/source.rs          the databases that are shown
//! serve/{assets,file}.rs   HTML, style and scripts (plain files in serve/assets); a run as one file
//! ```
#![deny(missing_docs)]

pub mod cli;
pub mod config;
pub mod data;
pub mod error;
pub mod inference;
pub mod report;
pub mod rng;
pub mod run;
pub mod search;
pub mod serve;
pub mod store;
pub mod telemetry;
pub mod trainer;
pub mod types;
pub mod verify;
