"""Options, ranges and artefacts that cannot be what was meant."""

from faults.table import DEEP, Fault, file, instead, pipe

SINKS = "sinks {dir}/model --texts {dir}/texts.txt --out {dir}/out --length 8 "
REFUSAL = "refusal organism:chat --out {dir}/out --limit 4 --layers "
COLLECT = "collect {dir}/model --data {dir}/prompts.jsonl --at last --out {dir}/out --site "
CHAT = " --chat-template plain"


def _range(name: str, text: str, sentence: str) -> Fault:
    return Fault(f"layers {name}", f"{COLLECT}resid_pre:{text}{CHAT}", sentence)


RANGES = (
    _range("far beyond", "0-3000000000", "no layer 3000000000; there are layers 0 to 3"),
    _range("backwards", "5-2", "names no layers"),
    _range("negative", "-1", "names no layers"),
    _range("in float notation", "1e9", "names no layers"),
    _range("in other digits", "٣", "names no layers"),
    _range("empty", "", "names no layers"),
    _range("of 5,000 digits", "9" * 5000, "names no layers"),
    _range("one beyond", "4", "no layer 4"),
    Fault("layers of refusal", REFUSAL + "0-3000000000", "no layer 3000000000"),
    Fault("no such site", COLLECT + "nope" + CHAT, "no site 'nope'"),
    Fault("no such segment",
          "collect {dir}/model --data {dir}/prompts.jsonl --at nope --out {dir}/out "
          "--site resid_pre --chat-template plain", "there is no segment 'nope'"),
)  # fmt: skip

NUMBERS = (
    Fault("length of nothing", SINKS + "--length 0", "a length of 0"),
    Fault("length beyond the context", SINKS + "--length 3000000000", "tokens do not fit"),
    Fault("negative sequences", SINKS + "--max-sequences -1", "must be 1 or more"),
    Fault("negative limit", SINKS + "--limit -1", "must be 1 or more"),
    Fault("epsilon that is no number", SINKS + "--epsilon nan", "epsilon is nan"),
    Fault("epsilon beyond one", SINKS + "--epsilon 2", "epsilon is 2.0"),
    Fault("negative seed", SINKS + "--seed -1", "--seed"),
    Fault("seed of 65 bits", SINKS + "--seed 36893488147419103232", "--seed"),
    Fault("negative causal sequences", SINKS + "--causal-sequences -3", "must be 0 or more"),
    Fault("unknown device", SINKS + "--device tpu9", "device 'tpu9' is unknown"),
    Fault("dtype of sinks", SINKS + "--dtype int8", "'int8' is not one of"),
    Fault("dtype of doctor", "doctor {dir}/model --dtype int8", "dtype 'int8' is not one of"),
    Fault("minutes that are none", "report {dir}/model --out {dir}/out --texts {dir}/texts.txt "
          "--minutes nan", "--minutes"),
    Fault("seconds that are none", "backdoor {dir}/model --out {dir}/out --seconds nan",
          "--seconds"),
    Fault("budget of nothing", "backdoor {dir}/model --out {dir}/out --budget 0", "--budget"),
    Fault("heads beyond all", "cliff {dir}/model --out {dir}/out --share-of-heads 2",
          "a share of 2.0"),
    Fault("share of heads that is none", "cliff {dir}/model --out {dir}/out --share-of-heads nan",
          "a share of nan"),
    Fault("percentage beyond all", "cliff {dir}/model --out {dir}/out --train {dir}/new "
          "--train-percent 200", "200 % of the training"),
    Fault("no new token", "refusal organism:chat --out {dir}/out --limit 4 --max-new-tokens 0",
          "one new token"),
    Fault("no token in a batch", COLLECT + "resid_pre --batch-tokens 0" + CHAT, "--batch-tokens"),
    Fault("limit of no prompt", COLLECT + "resid_pre --limit 0" + CHAT, "a limit of 0"),
    Fault("strength that is none", "generate {dir}/model --prompt w5 --strength nan", "--strength"),
    Fault("negative rate", "guard fit {dir}/model --out {dir}/g --fpr -1", "--fpr"),
    Fault("batch of nothing", "steer train {dir}/model --out {dir}/out --end-to-end-batch 0",
          "must be 2 or more"),
    Fault("no such method", "steer train {dir}/model --out {dir}/out --method nope", "'nope'"),
    Fault("no such split", "steer train {dir}/model --out {dir}/out --split nope", "'nope'"),
    Fault("no such guard", "guard fit {dir}/model --out {dir}/g --method nope", "'nope'"),
    Fault("port beyond all", "serve {dir}/model --policy {dir}/p --port 70000", "--port"),
    Fault("negative strings", "interaction {dir}/model --out {dir}/out --first a --second b "
          "--null -1", "--null"),
    Fault("one switch", "interaction {dir}/model --out {dir}/out --first a", "the second switch"),
    Fault("negative candidates", "self-report {dir}/model --out {dir}/out --unknown -1",
          "--unknown"),
    Fault("seeds of words", "organisms table --seeds a,b", "--seeds"),
    Fault("too many seeds", "organisms table --seeds -1", "--seeds"),
    Fault("seed in other digits", "organisms table --seeds ٣", "--seeds"),
    Fault("no such variant", "organisms table --seeds 0 --variants nope", "nope"),
    Fault("no such organism", "organisms train nope", "nope"),
    Fault("seed of an organism", "organisms train clean --seed -1", "negative"),
    Fault("poison that is none", "organisms train clean --poison nan", "poison"),
    Fault("seed in a spelling", "plan organism:clean@seed=99999999999999999999", "seed"),
    Fault("verify of a folder", "organisms verify {dir}", "it is no organism's folder"),
    Fault("deep truth", "organisms verify {dir}", "nested more deeply",
          file("truth.json", DEEP)),
    Fault("no test share", "probe fit {dir}/c --label label --out {dir}/p --test-share 5",
          "--test-share"),
    Fault("scorer that is none", "refusal organism:chat --out {dir}/out --limit 4 --scorer nope",
          "'nope' is no folder"),
    Fault("neither prompt nor messages", "generate {dir}/model", "give either --prompt"),
    Fault("a model too long", "plan " + "a" * 5000, "has 5000 characters"),
    Fault("a home that is none", "plan ~nobody-here/model", "has no config.json"),
    Fault("an empty model", "plan ''", "config.json"),
    Fault("a file as a model", "plan {dir}/texts.txt", "has no config.json"),
    Fault("a file as --out", SINKS.replace("{dir}/out", "{dir}/texts.txt"), "is a file, so no"),
    Fault("a path below a file", SINKS.replace("{dir}/out", "{dir}/texts.txt/out"),
          "is a file, so no"),
    Fault("a long --out", SINKS.replace("{dir}/out", "{dir}/" + "a" * 300), "File name too long"),
    Fault("doctor to no folder", "doctor {dir}/model --json {dir}/none/x.json", "is no folder"),
    Fault("a base model that cannot chat", "generate {dir}/model --prompt w5",
          "has no chat template"),
)  # fmt: skip

ARTEFACTS = (
    Fault("no vector", "vector info {dir}/gone.safetensors", "gone.safetensors"),
    Fault("vector of a folder", "vector info {dir}", "does not hold the three files"),
    Fault("vector that is text", "vector info {dir}/texts.txt", "texts.txt"),
    Fault("export of nothing", "vector export {dir}/gone --to npy --out {dir}/x", "gone"),
    Fault("import of nothing", "vector import {dir}/gone.gguf {dir}/model --out {dir}/p", "gone"),
    Fault("import of a strange type", "vector import {dir}/texts.txt {dir}/model --out {dir}/p",
          "texts.txt"),
    Fault("no collection", "probe fit {dir}/c --label label --out {dir}/p", "no readable"),
    Fault("deep collection", "probe fit {dir} --label label --out {dir}/p", "no readable",
          file("collection.json", "{")),
    Fault("no probe", "probe eval {dir}/gone {dir}", "gone"),
    Fault("no guard", "guard score {dir}/gone {dir}/model --messages {dir}/prompts.jsonl", "gone"),
    Fault("no policy", "serve {dir}/model --policy {dir}/gone", "gone"),
    Fault("no policy for generate", "generate {dir}/model --prompt w5 --policy {dir}/gone", "gone"),
    Fault("no policy for report", "report organism:chat --out {dir}/out --policy {dir}/gone",
          "gone"),
    Fault("options of policies alone", "report {dir}/model --out {dir}/out --allow fingerprint",
          "are for measuring policies"),
    Fault("pipe for report", "report {dir}/model --out {dir}/out --texts {dir}/x.txt",
          "it is a named pipe", instead("x.txt", pipe)),
    Fault("adapter that is none", "interaction {dir}/model --out {dir}/out --first-adapter "
          "{dir}/gone --second b --prompts {dir}/prompts.jsonl" + CHAT, "gone"),
    Fault("repair into a full folder", "backdoor {dir}/model --out {dir}/out --repair {dir}",
          "is not an empty folder"),
    Fault("training into a full folder", "cliff {dir}/model --out {dir}/out --train {dir}",
          "is not an empty folder"),
    Fault("guard to a folder", "guard fit {dir}/model --out {dir}", "is a folder"),
    Fault("probe to no folder", "probe fit {dir} --label label --out {dir}/none/p",
          "is no folder"),
    Fault("list as a collection", "probe fit {dir} --label label --out {dir}/p",
          "it holds no JSON object", file("collection.json", "[]")),
)  # fmt: skip

FAULTS = (*RANGES, *NUMBERS, *ARTEFACTS)
