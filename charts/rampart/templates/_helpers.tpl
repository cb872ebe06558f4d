{{- define "rampart.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "rampart.fullname" -}}
{{- $name := printf "%s-%s" .Release.Name (include "rampart.name" .) }}
{{- if .Values.fullnameOverride }}
{{- $name = .Values.fullnameOverride }}
{{- else if contains (include "rampart.name" .) .Release.Name }}
{{- $name = .Release.Name }}
{{- end }}
{{- $name = $name | trunc 40 | trimSuffix "-" }}
{{- if not (regexMatch "^[A-Za-z][-A-Za-z0-9]*$" $name) }}
{{- fail (printf "expected a name that begins with a letter and has no dot, as Services and InferenceServices must, got %s: set fullnameOverride" $name) }}
{{- end }}
{{- $name }}
{{- end }}

{{/* Immutable: what Deployments select by. */}}
{{- define "rampart.selector" -}}
app.kubernetes.io/name: {{ include "rampart.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* The pods of the server, whoever made them: the chart, or KServe for it. */}}
{{- define "rampart.podLabels" -}}
{{ include "rampart.selector" . }}
app.kubernetes.io/part-of: rampart
{{- end }}

{{- define "rampart.labels" -}}
{{ include "rampart.podLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "rampart.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ .image.tag | default .root.Chart.AppVersion }}
{{- end }}
{{- end }}

{{/* What the Pod Security Standard "restricted" asks of a pod. */}}
{{- define "rampart.podSecurity" -}}
runAsNonRoot: true
{{- with .Values.podSecurity.runAsUser }}
runAsUser: {{ . }}
{{- end }}
{{- with .Values.podSecurity.runAsGroup }}
runAsGroup: {{ . }}
{{- end }}
{{- with .Values.podSecurity.fsGroup }}
fsGroup: {{ . }}
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* … and of a container. */}}
{{- define "rampart.containerSecurity" -}}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
readOnlyRootFilesystem: true
runAsNonRoot: true
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "rampart.storeEnv" -}}
- name: RAMPART_REGISTRY
  value: {{ .Values.store.uri | quote }}
- name: AWS_REGION
  value: {{ .Values.store.region | quote }}
{{- with .Values.store.endpoint }}
- name: AWS_ENDPOINT_URL
  value: {{ . | quote }}
{{- end }}
{{- if .Values.store.caConfigMap }}
- name: AWS_CA_BUNDLE
  value: /etc/rampart/ca/ca.crt
{{- end }}
- name: HOME
  value: /tmp
{{- end }}

{{/* Keys as files, not as variables: a rotated Secret is read again, and no crash dump shows it. */}}
{{- define "rampart.keysEnv" -}}
{{- if .Values.store.existingSecret }}
- name: RAMPART_S3_SECRETS
  value: /etc/rampart/store
{{- end }}
{{- end }}

{{- define "rampart.storeMounts" -}}
- {name: tmp, mountPath: /tmp}
{{- if .Values.store.existingSecret }}
- {name: store, mountPath: /etc/rampart/store, readOnly: true}
{{- end }}
{{- if .Values.store.caConfigMap }}
- {name: ca, mountPath: /etc/rampart/ca, readOnly: true}
{{- end }}
{{- end }}

{{- define "rampart.storeVolumes" -}}
- name: tmp
  emptyDir: {}
{{- with .Values.store.existingSecret }}
- name: store
  secret: {secretName: {{ . }}}
{{- end }}
{{- with .Values.store.caConfigMap }}
- name: ca
  configMap: {name: {{ . }}}
{{- end }}
{{- end }}

{{/* A clear message instead of "no matches for kind". */}}
{{- define "rampart.requireApi" -}}
{{- if not (.root.Capabilities.APIVersions.Has .api) }}
{{- fail (printf "expected a cluster that serves %s for %s=%v, found none: install %s first, or %s (when rendering without a cluster: --api-versions %s)" .api .key .value .install .instead .api) }}
{{- end }}
{{- end }}

{{/* A Secret that is missing would only show as pods that never start. Without a cluster nothing can be looked up. */}}
{{- define "rampart.requireExisting" -}}
{{- if and .name (lookup "v1" "ServiceAccount" .root.Release.Namespace "default") }}
{{- if not (lookup "v1" .kind .root.Release.Namespace .name) }}
{{- fail (printf "expected the %s %s in namespace %s (%s), found none: create it first" .kind .name .root.Release.Namespace .key) }}
{{- end }}
{{- end }}
{{- end }}

{{/* What everything needs that reads the registry; the registry-init Job makes its reader's Secret itself. */}}
{{- define "rampart.requireStore" -}}
{{- if not (and .Values.registryInit.enabled (eq .Values.store.existingSecret .Values.registryInit.readerSecret)) }}
{{- include "rampart.requireExisting" (dict "root" . "kind" "Secret" "name" .Values.store.existingSecret "key" "store.existingSecret") }}
{{- end }}
{{- include "rampart.requireExisting" (dict "root" . "kind" "ConfigMap" "name" .Values.store.caConfigMap "key" "store.caConfigMap") }}
{{- end }}

{{/* A rollout's pods in this namespace take this release's ServiceAccount and settings: by the wrong name they never start. */}}
{{- define "rampart.requireRelease" -}}
{{- $rollout := default dict .Values.pipelines.rollout }}
{{- $named := dig "service" "release" "" $rollout }}
{{- if and $named (eq (default "" $rollout.namespace) .Release.Namespace) (ne $named .Release.Name) }}
{{- fail (printf "expected pipelines.rollout.service.release=%s, the name of this release, got %s" .Release.Name $named) }}
{{- end }}
{{- end }}
