"""Problem files in the layouts in which sets are published, with made-up problems: tests/fixtures/data/published.

    python tests/python/make_published.py tests/fixtures/data/published

Needs pyarrow, which also writes the files on the hub. Columns, types and nesting are those of the sets' own cards.
"""

import json
import pathlib
import sys

import pyarrow as pa
import pyarrow.parquet as pq

out = pathlib.Path(sys.argv[1])


def lines(name, rows):
    path = out / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def table(name, schema, rows):
    path = out / name
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {key: [row.get(key) for row in rows] for key in schema.names}
    pq.write_table(pa.Table.from_pydict(columns, schema=schema), path, compression="snappy")


text, real, whole = pa.string(), pa.float64(), pa.int64()

# zwhe99/DeepMath-103K: shards with three long solutions each.
deepmath = pa.schema([("question", text), ("final_answer", text), ("difficulty", real), ("topic", text)]
                     + [(f"r1_solution_{i}", text) for i in (1, 2, 3)])
for shard in range(2):
    table(f"deepmath-103k/data/train-{shard:05}-of-00002.parquet", deepmath, [
        {"question": f"Evaluate $\\lim_{{x \\to 0}} \\frac{{\\sin {n} x}}{{x}}$.", "final_answer": str(n),
         "difficulty": 4.5 + n / 2 if n else -1.0, "topic": "Mathematics -> Precalculus -> Limits",
         **{f"r1_solution_{i}": f"<think>way {i}</think> \\boxed{{{n}}}" for i in (1, 2, 3)}}
        for n in range(3 * shard, 3 * shard + 3)])

# openai/gsm8k as a table, and openai/grade-school-math as lines.
gsm8k = [
    {"question": "Ann has 3 bags of 4 pears. How many pears are that?",
     "answer": "In all there are 3 * 4 = <<3*4=12>>12 pears.\n#### 12"},
    {"question": "A firm sells 1,000 boxes and then 250 more. How many does it sell?",
     "answer": "It sells 1000 + 250 = <<1000+250=1250>>1250 boxes.\n#### 1,250"},
]
table("gsm8k/main/test-00000-of-00001.parquet", pa.schema([("question", text), ("answer", text)]), gsm8k)
lines("grade_school_math/data/train.jsonl", gsm8k)

# HuggingFaceH4/MATH-500 and PRM800K.
lines("MATH-500/test.jsonl", [
    {"problem": "Compute $\\frac12+\\frac13$.", "solution": "We have $\\boxed{\\frac{5}{6}}$.", "answer": "\\frac{5}{6}",
     "subject": "Prealgebra", "level": 2, "unique_id": "test/prealgebra/1.json"}])

# hendrycks/competition_math: the answer is only in the solution, and the level is a text.
lines("MATH/train.jsonl", [
    {"problem": "What is $1+1$?", "level": "Level 1", "type": "Algebra", "solution": "It is $\\boxed{2}$."},
    {"problem": "What is $2+2$?", "level": "Level ?", "type": "Algebra", "solution": "It is $\\boxed{\\text{4}}$."}])

# HuggingFaceH4/aime_2024, Maxwell-Jia/AIME_2024.
table("aime_2024/data/train-00000-of-00001.parquet",
      pa.schema([("id", whole), ("problem", text), ("solution", text), ("answer", text), ("url", text), ("year", text)]),
      [{"id": 60, "problem": "Find $33$.", "solution": "\\boxed{033}", "answer": "033", "url": "https://example.org", "year": "2024"}])
table("AIME_2024/aime_2024_problems.parquet",
      pa.schema([("ID", text), ("Problem", text), ("Solution", text), ("Answer", whole)]),
      [{"ID": "2024-II-4", "Problem": "Find $33$.", "Solution": "It is 33.", "Answer": 33}])

# opencompass/AIME2025 (no id) and math-ai/aime25.
lines("AIME2025/aime2025-I.jsonl", [{"question": "Find $70$.", "answer": "70"}, {"question": "Find $588$.", "answer": "588"}])
lines("aime25/test.jsonl", [{"problem": "Find $70$.", "answer": "70", "id": "0"}])

# AI-MO/aimo-validation-amc: answers are floating point numbers. math-ai/amc23: they are texts.
table("aimo-validation-amc/data/train-00000-of-00001.parquet",
      pa.schema([("id", whole), ("problem", text), ("answer", real), ("url", text)]),
      [{"id": 0, "problem": "How many?", "answer": 142.0, "url": "https://example.org"},
       {"id": 1, "problem": "How much?", "answer": 0.5, "url": "https://example.org"}])
table("amc23/data/test-00000-of-00001.parquet",
      pa.schema([("id", whole), ("question", text), ("answer", text), ("url", text)]),
      [{"id": 0, "question": "How many?", "answer": "27.0", "url": "https://example.org"}])

# Minerva's OCWCourses: the answer in the solution; and math-ai/minervamath: question and answer.
lines("minerva_math/test.jsonl", [
    {"problem": "How bright is it?", "solution": "So $L=\\boxed{3.83e35}$ ergs per second.", "type": "Astronomy", "idx": 0}])
lines("minervamath/test.jsonl", [{"question": "How bright is it?", "answer": "3.83e35"}])

# Hothan/OlympiadBench, OE_TO_maths_en_COMP.
olympiad = pa.schema([
    ("id", whole), ("question", text), ("solution", pa.list_(text)), ("final_answer", pa.list_(text)), ("context", text),
    ("image_1", pa.struct([("bytes", pa.binary()), ("path", text)])), ("modality", text), ("difficulty", text),
    ("is_multiple_answer", pa.bool_()), ("unit", text), ("answer_type", text), ("error", text), ("question_type", text),
    ("subfield", text), ("subject", text), ("language", text)])
common = {"modality": "Text-only", "difficulty": "Competition", "answer_type": "Numerical", "question_type": "Open-ended",
          "subfield": "Algebra", "subject": "Math", "language": "English"}
table("OlympiadBench/OE_TO_maths_en_COMP/OE_TO_maths_en_COMP.parquet", olympiad, [
    {"id": 1606, "question": "Find all $x$ with $x^2=4$.", "solution": ["..."], "final_answer": ["2,-2"],
     "is_multiple_answer": True, **common},
    {"id": 1610, "question": "Determine $n$.", "solution": ["...", "..."], "final_answer": ["3", "$5$"], "context": "Let $n$ be odd.",
     "is_multiple_answer": True, **common}])

# DeepSearch, verl, DAPO: what RL frameworks read.
chat = pa.schema([
    ("data_source", text), ("prompt", pa.list_(pa.struct([("content", text), ("role", text)]))), ("ability", text),
    ("reward_model", pa.struct([("ground_truth", text), ("style", text)])),
    ("extra_info", pa.struct([("difficulty", real), ("index", whole), ("topic", text)]))])
table("deepmath103k_round1/train_25.parquet", chat, [
    {"data_source": "deepmath", "prompt": [{"content": "What is $6 \\cdot 7$?", "role": "user"}], "ability": "math",
     "reward_model": {"ground_truth": "42", "style": "rule"},
     "extra_info": {"difficulty": 6.0, "index": 7, "topic": "Arithmetic"}}])
