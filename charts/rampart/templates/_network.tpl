{{- define "rampart.ports" -}}
{{- range . }}
- {protocol: TCP, port: {{ . }}}
{{- end }}
{{- end }}

{{- define "rampart.egress.dns" -}}
- to:
    {{- toYaml .Values.networkPolicy.dns | nindent 4 }}
  ports:
    - {protocol: UDP, port: 53}
    - {protocol: TCP, port: 53}
{{- end }}

{{- define "rampart.egress.store" -}}
- ports:
    {{- include "rampart.ports" .Values.networkPolicy.storePorts | nindent 4 }}
  {{- with .Values.networkPolicy.store }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- if .Values.minio.enabled }}
- ports:
    - {protocol: TCP, port: 9000}
  to:
    - podSelector:
        matchLabels:
          {{- include "rampart.selector" (dict "root" . "component" "minio") | nindent 10 }}
{{- end }}
{{- end }}
