-- Weights that a run lets go: without this row nothing tells them from weights that were lost, since `run.keep_every` may
-- change on a resume.
alter table weight_version add column
    -- When their folder was given up: noted before it is removed. Null while it is kept, and again once they are written anew.
    -- Versions that were removed before there was this column have none.
    dropped_at_ms integer;
