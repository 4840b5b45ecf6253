"""The one version of the project: sidecar, operator, images and chart carry it."""

VERSION = "0.1.0"
