"""The three models that make one diagnosis, as Triton's configurations.

`<name>` is the ensemble and carries the manifests; `<name>_extractor` turns tiles into
features, `<name>_diagnosis` features into a diagnosis. Triton batches the extractor: tiles of
several slides share a run. It batches neither of the others (`max_batch_size` 0), for the
tiles of a slide are one bag, and a request of them is never mixed with another.
"""

from sagdeploy.manifest import PARAMETER, Manifest, diagnosis_name, extractor_name
from sagdeploy.serving.engine import REQUEST_BYTES, REQUEST_TILES
from sagdeploy.serving.model_config import ModelConfig, Step, Tensor, new_config
from sagdeploy.slides.tiling import TilePlan

FEWEST_IN_A_RUN = 16
"""However large the tiles; a client's batches have no more."""


def extractor_config(manifest: Manifest) -> ModelConfig:
    """Tiles to features."""
    features = Tensor("features", "float32", (-1, manifest.extractor.features))
    return _graph_config(
        extractor_name(manifest.name),
        [_tiles(manifest, "tiles")],
        [features],
        largest_batch=tiles_in_a_run(manifest.plan),
    )


def diagnosis_config(manifest: Manifest) -> ModelConfig:
    """Features to a diagnosis."""
    features = [
        Tensor(name, "float32", (-1, manifest.extractor.features))
        for name in manifest.tensors("features")
    ]
    return _graph_config(diagnosis_name(manifest.name), features, diagnosis_outputs(manifest))


def ensemble_config(manifest: Manifest, published: ModelConfig | None = None) -> ModelConfig:
    """Tiles to a diagnosis, by the manifest's version of extractor and diagnosis.

    Only that version is served, for an ensemble has one set of steps. The features stay
    inside: Triton deadlocks where a step's tensor is also an output that is not asked for.

    published: what the repository holds; its older manifests and its tuning are kept
    """
    config = new_config(
        manifest.name,
        inputs=[_tiles(manifest, name) for name in manifest.tensors("tiles")],
        outputs=diagnosis_outputs(manifest),
        platform="ensemble",
    )
    message = config.message
    if published is not None:
        message.CopyFrom(published.message)
    message.version_policy.specific.versions[:] = [manifest.version]
    del message.ensemble_scheduling.step[:]
    for step in _steps(manifest):
        message.ensemble_scheduling.step.add(
            model_name=step.model,
            model_version=step.version,
            input_map=step.inputs,
            output_map=step.outputs,
        )
    key = PARAMETER.format(version=manifest.version)
    message.parameters[key].string_value = manifest.model_dump_json()
    return config


def diagnosis_outputs(manifest: Manifest) -> tuple[Tensor, ...]:
    """What the diagnosis network gives, and the ensemble hands on."""
    classes, maps = len(manifest.classes), manifest.layers * manifest.heads
    heads = manifest.tensors("attention_heads") if maps > 1 else ()
    return (
        Tensor("probabilities", "float32", (classes,)),
        Tensor("logits", "float32", (classes,)),
        *(Tensor(name, "float32", (-1,)) for name in manifest.tensors("attention")),
        *(Tensor(name, "float32", (maps, -1)) for name in heads),
    )


def tiles_in_a_run(plan: TilePlan) -> int:
    """How many tiles Triton may put into one run, and takes in one request.

    All that a client sends at once fits. 0, which is one request a run, for the crops of a
    grid: they are as large as the slide has it, and memory holds few.
    """
    if plan.kind == "grid":
        return 0
    return max(FEWEST_IN_A_RUN, min(REQUEST_TILES, REQUEST_BYTES // (3 * plan.tile_px**2)))


def _steps(manifest: Manifest) -> tuple[Step, ...]:
    """The extractor once a magnification, then the diagnosis."""
    tiles, features = manifest.tensors("tiles"), manifest.tensors("features")
    outputs = [tensor.name for tensor in diagnosis_outputs(manifest)]
    extractor, diagnosis = extractor_name(manifest.name), diagnosis_name(manifest.name)
    return (
        *(
            Step(extractor, manifest.version, {"tiles": tile}, {"features": feature})
            for tile, feature in zip(tiles, features, strict=True)
        ),
        Step(
            diagnosis,
            manifest.version,
            {name: name for name in features},
            {name: name for name in outputs},
        ),
    )


def _tiles(manifest: Manifest, name: str) -> Tensor:
    side = manifest.extractor.tile_px or -1
    return Tensor(name, "uint8", (-1, side, side, 3))


def _graph_config(
    name: str,
    inputs: list[Tensor],
    outputs: list[Tensor] | tuple[Tensor, ...],
    *,
    largest_batch: int = 0,
) -> ModelConfig:
    """An ONNX graph, on a GPU where there is one; every version is served.

    The ensemble and clients name the version that they want. Without a count Triton would
    run two instances on a CPU, each with threads for all cores.
    """
    config = new_config(
        name, inputs=inputs, outputs=outputs, largest_batch=largest_batch, backend="onnxruntime"
    )
    config.message.version_policy.all.SetInParent()
    config.message.instance_group.add(count=1)
    return config
