"""Every declared site fires, and holds what TransformerLens means by its name."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch
from batches import batch
from families import FAMILIES, tiny
from torch import Tensor, nn

import interp
from interp import Checkpoint, InputError, Site
from interp.attention.statistics import AttentionCall, Tap, observe
from interp.model.sites import layer_ranges, site_hook

HANDED_OVER: dict[str, Callable[[AttentionCall], Tensor]] = {
    "q": lambda call: call.query,
    "k": lambda call: call.key,
    "rot_q": lambda call: call.query,
    "rot_k": lambda call: call.key,
    "v": lambda call: call.value,
    "z_pre_gate": lambda call: call.output,
}
# What TransformerLens 4.3 has no comparable value for, and why.
UNCOMPARABLE = {
    **dict.fromkeys(
        [(family, site) for family in ("gpt_neox", "phi3", "afmoe") for site in ("rot_q", "rot_k")],
        "the bridge has the hook, but its adapter rotates inside the original attention",
    ),
    **dict.fromkeys(
        [("qwen3_next", "q"), ("qwen3_5", "q")],
        "the bridge's hook_q is the raw q_proj output: [query | gate] of each head, 2H heads wide",
    ),
    ("afmoe", "gate"): "the adapter has no hook on the gate's own projection",
}
ONLY_OURS = {"z_pre_gate"}


def sites_of(checkpoint: Checkpoint) -> list[Site]:
    sites = [Site("embed"), Site("final_norm")]
    for index, layer in enumerate(checkpoint.anatomy.layers):
        sites += [Site(name, index) for name in layer.sites]
    return sites


@contextmanager
def reading(checkpoint: Checkpoint, sites: list[Site]) -> Iterator[dict[Site, Tensor]]:
    """Collect the value of sites with plain hooks and the attention interface."""
    got: dict[Site, Tensor] = {}
    handed: dict[int, list[Site]] = {}
    with ExitStack() as stack:
        for site in sites:
            hook = site_hook(checkpoint, site)
            if hook is None:
                assert site.layer is not None
                handed.setdefault(site.layer, []).append(site)
                continue

            def keep(
                _: nn.Module,
                args: Any,
                kwargs: Any,
                output: Any,
                site: Site = site,
                hook: Any = hook,
            ) -> None:
                tensor = (args or list(kwargs.values()))[0] if hook.before else output
                tensor = tensor[0] if isinstance(tensor, tuple) else tensor
                got[site] = hook.read(tensor).clone()

            handle = hook.module.register_forward_hook(keep, with_kwargs=True)
            stack.callback(handle.remove)

        def receive(call: AttentionCall) -> None:
            for site in handed[call.layer]:
                got[site] = HANDED_OVER[site.name](call).transpose(1, 2).clone()

        taps = {layer: Tap(receive) for layer in handed}
        stack.enter_context(observe(checkpoint.model, checkpoint.anatomy, taps))
        yield got


def values(checkpoint: Checkpoint, sites: list[Site], ids: Tensor) -> dict[Site, Tensor]:
    with torch.no_grad(), reading(checkpoint, sites) as got:
        checkpoint.model(ids, use_cache=False)
    return got


@pytest.mark.parametrize("family", [*FAMILIES, "lfm3"])
def test_every_declared_site_fires_in_its_shape(family: str) -> None:
    checkpoint = interp.load(tiny(family))
    ids = batch("none").ids
    sites = sites_of(checkpoint)
    got = values(checkpoint, sites, ids)
    assert set(got) == set(sites)
    for site, tensor in got.items():
        assert tensor.isfinite().all() and tensor.abs().max() > 0
        assert tuple(tensor.shape) == (*ids.shape, *inner_shape(checkpoint, site)), site


def inner_shape(checkpoint: Checkpoint, site: Site) -> tuple[int, ...]:
    if site.layer is None:
        return (checkpoint.anatomy.width,)
    layer = checkpoint.anatomy.layers[site.layer]
    if site.name == "gate" and layer.gate is not None and layer.gate.kind == "per_head":
        return (layer.heads,)
    if site.name in ("q", "rot_q", "z", "z_pre_gate", "gate"):
        return (layer.heads, layer.head_dim)
    if site.name in ("k", "rot_k", "v"):
        return (layer.kv_heads, layer.head_dim)
    return (checkpoint.anatomy.width,)


@pytest.mark.parametrize("family", FAMILIES)
def test_values_equal_those_of_transformer_lens(family: str) -> None:
    checkpoint = interp.load(tiny(family))
    ids = batch("none").ids
    got = values(checkpoint, sites_of(checkpoint), ids)
    bridge = checkpoint.bridge()
    compared = 0
    for site, ours in got.items():
        if site.name in ONLY_OURS or (family, site.name) in UNCOMPARABLE:
            continue
        with torch.no_grad():
            _, cache = bridge.run_with_cache(ids, names_filter=[site.hook_name])
        theirs = cache[site.hook_name].reshape(ours.shape)
        assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max(), site
        compared += 1
    assert compared > 0.6 * len(got)


@pytest.mark.parametrize(("family", "name"), UNCOMPARABLE)
def test_the_exceptions_are_still_exceptions(family: str, name: str) -> None:
    """When TransformerLens learns one of these, the exception has to go."""
    checkpoint = interp.load(tiny(family))
    site = Site(name, checkpoint.anatomy.softmax_layers[0])
    ids = batch("none").ids
    ours = values(checkpoint, [site], ids)[site]
    bridge = checkpoint.bridge()
    try:
        _, cache = bridge.run_with_cache(ids, names_filter=[site.hook_name])
    except KeyError:
        return
    assert site.hook_name not in cache or cache[site.hook_name].numel() != ours.numel()


@pytest.mark.parametrize("family", ["qwen3_next", "qwen3_5", "afmoe", "lfm3"])
def test_the_gate_multiplies_what_the_head_put_out(family: str) -> None:
    checkpoint = interp.load(tiny(family))
    layer = checkpoint.anatomy.gated_layers[0]
    sites = [Site(name, layer) for name in ("z", "z_pre_gate", "gate")]
    got = values(checkpoint, sites, batch("none").ids)
    gate = torch.sigmoid(got[sites[2]])
    gate = gate[..., None] if family == "lfm3" else gate
    torch.testing.assert_close(got[sites[0]], got[sites[1]] * gate, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("family", ["qwen3_5", "qwen3_next"])
def test_gate_rows_of_zero_halve_the_output(family: str) -> None:
    checkpoint = interp.load(tiny(family))
    layer = checkpoint.anatomy.gated_layers[0]
    rows = checkpoint.layers[layer].self_attn.q_proj.weight
    with torch.no_grad():
        rows.view(4, 2, 8, -1)[:, 1] = 0
    sites = [Site(name, layer) for name in ("z", "z_pre_gate", "gate", "q")]
    got = values(checkpoint, sites, batch("none").ids)
    z, before, gate, query = (got[site] for site in sites)
    assert torch.equal(z, 0.5 * before)
    assert (gate == 0).all() and (query != 0).all()


@pytest.mark.parametrize("family", [*FAMILIES, "lfm3"])
def test_writing_back_what_was_read_changes_nothing(family: str) -> None:
    checkpoint = interp.load(tiny(family))
    inputs = batch("none")
    with torch.no_grad():
        wanted = checkpoint.model(inputs.ids).logits
    for site in sites_of(checkpoint):
        hook = site_hook(checkpoint, site)
        if hook is None or hook.before:
            continue

        def rewrite(_: nn.Module, __: Any, output: Any, hook: Any = hook) -> Any:
            tensor = output[0] if isinstance(output, tuple) else output
            tensor = hook.write(tensor, hook.read(tensor).clone())
            return (tensor, *output[1:]) if isinstance(output, tuple) else tensor

        handle = hook.module.register_forward_hook(rewrite)
        with torch.no_grad():
            assert torch.equal(checkpoint.model(inputs.ids).logits, wanted), site
        handle.remove()


@pytest.mark.parametrize(
    ("text", "site"),
    [
        ("blocks.3.hook_resid_post", Site("resid_post", 3)),
        ("resid_post:3", Site("resid_post", 3)),
        ("blocks.11.attn.hook_q_gate", Site("gate", 11)),
        ("blocks.0.attn.hook_z", Site("z", 0)),
        ("embed", Site("embed")),
        ("hook_embed", Site("embed")),
        ("final_norm", Site("final_norm")),
    ],
)
def test_parse(text: str, site: Site) -> None:
    assert Site.parse(text) == site


@pytest.mark.parametrize("family", FAMILIES)
def test_parse_reads_every_hook_name_back(family: str) -> None:
    for site in sites_of(interp.load(tiny(family))):
        assert Site.parse(site.hook_name) == site


@pytest.mark.parametrize(
    "text",
    ["", "resid_post", "resid_pots:3", "blocks.3.hook_pattern", "blocks.x.hook_z", "embed:2"],
)
def test_parse_says_what_there_is(text: str) -> None:
    with pytest.raises(InputError, match="resid_post") as caught:
        Site.parse(text)
    assert caught.value.exit_code == 2


def test_a_site_that_a_layer_lacks() -> None:
    hybrid, parallel = interp.load(tiny("qwen3_5")), interp.load(tiny("gpt_neox"))
    for checkpoint, site, message in (
        (
            hybrid,
            Site("z", 0),
            r"layer 0 .*\(linear attention\) has no site 'z'; it has .*resid_post",
        ),
        (parallel, Site("resid_mid", 1), "no site 'resid_mid'"),
        (parallel, Site("z", 4), "no layer 4: .* has layers 0 to 3"),
        (parallel, Site("z", -1), "no layer -1"),
    ):
        with pytest.raises(InputError, match=message):
            site_hook(checkpoint, site)
        with pytest.raises(InputError, match=message):
            site.explain(checkpoint)


@pytest.mark.parametrize("family", [*FAMILIES, "lfm3"])
def test_explain_every_site(family: str) -> None:
    checkpoint = interp.load(tiny(family))
    paths = {name for name, _ in checkpoint.model.named_modules()}
    for site in sites_of(checkpoint):
        text = site.explain(checkpoint)
        name, rest = text.split(": ", 1)
        assert name == site.hook_name
        path = rest.split(" of ")[1].split(",")[0]
        assert path in paths
        assert len(inner_shape(checkpoint, site)) == rest.split("[")[1].count(",") - 1


def test_explain_in_words() -> None:
    checkpoint = interp.load(tiny("qwen3_5"))
    assert Site("resid_pre", 1).explain(checkpoint) == (
        "blocks.1.hook_resid_pre: input of model.layers.1, [batch, position, width]"
    )
    assert Site("rot_q", 1).explain(checkpoint) == (
        "blocks.1.attn.hook_rot_q: the query (after any norm and rotation) handed to the attention "
        "interface of model.layers.1, [batch, position, head, head_dim]"
    )
    assert "the gate's rows, before its activation" in Site("gate", 1).explain(checkpoint)


def test_layers_in_short() -> None:
    assert layer_ranges((7, 0, 1, 2, 3)) == "0-3, 7"
    assert layer_ranges((1, 2)) == "1, 2" and layer_ranges((None,)) == ""
