{{/* The server's container, without its name: of the Deployment, of the predictor, of a runtime. */}}
{{- define "rampart.server.container" -}}
{{- $model := .model }}
{{- $name := .name }}
{{- with .root }}
image: {{ include "rampart.image" (dict "root" . "image" .Values.image) }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
command: [rampart, serve]
args:
  - --host
  - 0.0.0.0
  - --http-port
  - "8080"
  - --settings
  - /etc/rampart/server/settings.yaml
  - --model
  - {{ $model }}
  - --name
  - {{ $name | quote }}
env:
  {{- include "rampart.storeEnv" . | nindent 2 }}
  {{- include "rampart.keysEnv" . | nindent 2 }}
  - name: RAMPART_CACHE
    value: /cache
  {{- if .Values.trust.existingConfigMap }}
  - name: RAMPART_PUBLIC_KEY
    value: /etc/rampart/trust/rampart.pub
  {{- end }}
  {{- with .Values.serving.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
ports:
  - {name: http1, containerPort: 8080, protocol: TCP}
startupProbe: # a bundle is fetched, verified, loaded and warmed up
  httpGet: {path: /v2/health/live, port: 8080}
  periodSeconds: 5
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /v2/health/live, port: 8080}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /v2/health/ready, port: 8080}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 3
resources:
  {{- include "rampart.server.resources" . | nindent 2 }}
securityContext:
  {{- include "rampart.containerSecurity" . | nindent 2 }}
volumeMounts:
  {{- include "rampart.storeMounts" . | nindent 2 }}
  - {name: cache, mountPath: /cache}
  - {name: settings, mountPath: /etc/rampart/server, readOnly: true}
  {{- if .Values.trust.existingConfigMap }}
  - {name: trust, mountPath: /etc/rampart/trust, readOnly: true}
  {{- end }}
  {{- if .Values.serving.tokensSecret }}
  - {name: tokens, mountPath: /etc/rampart/tokens, readOnly: true}
  {{- end }}
{{- end }}
{{- end }}

{{/* … and what it serves: what the channel points at. */}}
{{- define "rampart.server.channel" -}}
{{ include "rampart.server.container" (dict "root" . "model" (printf "registry://%s@%s" .Values.model.name .Values.model.channel) "name" .Values.model.name) }}
{{- end }}

{{- define "rampart.server.volumes" -}}
{{ include "rampart.storeVolumes" . }}
- name: cache
  emptyDir: {sizeLimit: {{ .Values.serving.cacheSize }}}
- name: settings
  configMap: {name: {{ include "rampart.fullname" . }}-server}
{{- with .Values.trust.existingConfigMap }}
- name: trust
  configMap: {name: {{ . }}}
{{- end }}
{{- with .Values.serving.tokensSecret }}
- name: tokens
  secret: {secretName: {{ . }}}
{{- end }}
{{- end }}

{{- define "rampart.server.resources" -}}
{{- $resources := deepCopy .Values.serving.resources }}
{{- if eq .Values.serving.mode "kserve" }}
{{- /* a container that names no limit gets one of one CPU by KServe: as many as no machine has */}}
{{- $_ := set $resources "limits" (merge (default dict $resources.limits) (dict "cpu" "256")) }}
{{- end }}
{{- if .Values.serving.gpus }}
{{- $gpu := dict "nvidia.com/gpu" (toString .Values.serving.gpus) }}
{{- $_ := set $resources "limits" (merge (default dict $resources.limits) $gpu) }}
{{- end }}
{{- toYaml $resources }}
{{- end }}

{{/* Of the pod: the same keys in a Deployment's pod and in a predictor. */}}
{{- define "rampart.server.pod" -}}
serviceAccountName: {{ include "rampart.fullname" . }}-server
automountServiceAccountToken: false
enableServiceLinks: false
terminationGracePeriodSeconds: {{ add .Values.serving.drainSeconds .Values.serving.graceSeconds 10 }}
securityContext:
  {{- include "rampart.podSecurity" . | nindent 2 }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .Values.serving.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.serving.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.serving.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.serving.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
topologySpreadConstraints:
  {{- if .Values.serving.topologySpreadConstraints }}
  {{- toYaml .Values.serving.topologySpreadConstraints | nindent 2 }}
  {{- else }}
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "rampart.selector" (dict "root" . "component" "server") | nindent 8 }}
  {{- end }}
{{- end }}

{{- define "rampart.server.strategy" -}}
type: RollingUpdate
rollingUpdate:
  {{- if .Values.serving.gpus }}
  # a new pod would wait for ever for the GPU that the old one holds
  maxSurge: 0
  maxUnavailable: 1
  {{- else }}
  maxSurge: 1
  maxUnavailable: 0
  {{- end }}
{{- end }}

{{/* The Deployment that is scaled: ours, or the one that KServe names. */}}
{{- define "rampart.server.deployment" -}}
{{- if eq .Values.serving.mode "kserve" -}}
{{ include "rampart.fullname" . }}-predictor
{{- else -}}
{{ include "rampart.fullname" . }}-server
{{- end }}
{{- end }}
