"""Component: the InferenceService that serves a published detector."""

from kfp import dsl

from components.images import component


@component
def deploy(
    uri: str,
    version: str,
    registry: str,
    name: str,
    image: str,
    manifest: dsl.Output[dsl.Artifact],
) -> None:
    """Write the manifest that would be applied.

    Args:
        uri: `registry://NAME@CHANNEL`.
        version: the published version, an annotation on the service.
        registry: address of the object store.
        name: the model's name, also the service's.
        image: the predictor's image.
        manifest: the InferenceService as YAML.
    """
    from pathlib import Path

    from components.inference_service import inference_service
    from components.progress import say
    from components.writing import write_text

    text = inference_service(uri=uri, version=version, registry=registry, name=name, image=image)
    write_text(Path(manifest.path), text)
    say("deploy", f"manifest for {name} {version} written, not applied")
