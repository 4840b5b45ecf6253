{{/* Names, labels and images that templates share; and what of the values contradicts itself. */}}

{{/* Services are made of it, whose names have at most 63 characters. */}}
{{- define "litefs.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "litefs.operator" -}}{{ include "litefs.fullname" . }}-operator{{- end -}}
{{- define "litefs.webhook" -}}{{ include "litefs.fullname" . }}-webhook{{- end -}}
{{- define "litefs.consul" -}}{{ include "litefs.fullname" . }}-consul{{- end -}}
{{- define "litefs.policy" -}}{{ include "litefs.fullname" . }}-sidecar-required{{- end -}}
{{- define "litefs.test" -}}{{ include "litefs.fullname" . }}-test{{- end -}}

{{/* Where the certificate is. Each mode has its own: Helm deletes its Secret when the mode changes. */}}
{{- define "litefs.tlsSecret" -}}
{{- $mode := .Values.webhook.certificates.mode -}}
{{- if eq $mode "existing" -}}
{{- .Values.webhook.certificates.existing.secretName -}}
{{- else if eq $mode "helm" -}}
{{- include "litefs.webhook" . }}-tls
{{- else -}}
{{- printf "%s-%s-tls" (include "litefs.webhook" .) (kebabcase $mode) -}}
{{- end -}}
{{- end -}}

{{/* Labels of an object; called with the root and the component: (list . "operator"). */}}
{{- define "litefs.labels" -}}
{{- $root := index . 0 -}}
{{ include "litefs.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: litefs
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ $root.Chart.Name }}-{{ $root.Chart.Version }}
{{- end -}}

{{- define "litefs.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ $root.Chart.Name }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* An image's name; called with the root and the image's values. */}}
{{- define "litefs.image" -}}
{{- $image := index . 1 -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $image.repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $image.repository ($image.tag | default (index . 0).Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* The Consul of the installation; empty if there is none. */}}
{{- define "litefs.consulUrl" -}}
{{- if eq .Values.consul.mode "bundled" -}}
http://{{ include "litefs.consul" . }}.{{ .Release.Namespace }}.svc:8500
{{- else if eq .Values.consul.mode "external" -}}
{{- .Values.consul.url -}}
{{- end -}}
{{- end -}}

{{- define "litefs.validate" -}}
{{- $certificates := .Values.webhook.certificates -}}
{{- $existing := $certificates.existing -}}
{{- if and (eq $certificates.mode "existing") (not (and $existing.secretName $existing.caBundle)) -}}
{{- fail "webhook.certificates.mode is existing: set existing.secretName and existing.caBundle too" -}}
{{- end -}}
{{- if and (ne $certificates.mode "existing") (or $existing.secretName $existing.caBundle) -}}
{{- fail (printf "webhook.certificates.existing is set, but the mode is %s: set mode to existing, or remove it" $certificates.mode) -}}
{{- end -}}
{{- if and (ne $certificates.mode "certManager") $certificates.certManager.issuerRef -}}
{{- fail (printf "webhook.certificates.certManager is set, but the mode is %s: set mode to certManager, or remove it" $certificates.mode) -}}
{{- end -}}
{{- /* Where there is no cluster to ask, as for `helm template`, nobody knows. */}}
{{- if and (eq $certificates.mode "certManager") (not (.Capabilities.APIVersions.Has "cert-manager.io/v1")) (lookup "v1" "Namespace" "" "default") -}}
{{- fail "webhook.certificates.mode is certManager, but there is no cert-manager: install it first, or take another mode" -}}
{{- end -}}
{{- $consul := .Values.consul -}}
{{- if and (eq $consul.mode "external") (not $consul.url) -}}
{{- fail "consul.mode is external: set consul.url" -}}
{{- end -}}
{{- if and (ne $consul.mode "external") (or $consul.url $consul.tokenSecret.name $consul.caSecret.name) -}}
{{- fail (printf "consul.url, tokenSecret or caSecret is set, but consul.mode is %s: set it to external, or remove them" $consul.mode) -}}
{{- end -}}
{{- if and .Values.metrics.podMonitor.enabled (not .Values.metrics.podMonitor.clusters) -}}
{{- fail "metrics.podMonitor.enabled: name the LiteFSClusters in metrics.podMonitor.clusters" -}}
{{- end -}}
{{- end -}}
