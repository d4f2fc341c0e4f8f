{{/* The beginning of every name: the release's, with "outhaul" in it; short enough for what is appended. */}}
{{- define "outhaul.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains "outhaul" .Release.Name -}}
{{- .Release.Name | trunc 36 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-outhaul" (.Release.Name | trunc 28 | trimSuffix "-") -}}
{{- end -}}
{{- end -}}

{{/* Labels that select pods; they never change during a release's life. Takes (dict "root" $ "component" "order"). */}}
{{- define "outhaul.selector" -}}
app.kubernetes.io/name: outhaul
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "outhaul.labels" -}}
{{ include "outhaul.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: outhaul
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{/* Takes (dict "root" $ "name" "order"). */}}
{{- define "outhaul.image" -}}
{{- $image := index .root.Values.images .name -}}
{{- $repository := $image.repository -}}
{{- with .root.Values.images.registry -}}
{{- $repository = printf "%s/%s" (trimSuffix "/" .) $repository -}}
{{- end -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository ($image.tag | default .root.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{- define "outhaul.podSecurity" -}}
securityContext:
  runAsNonRoot: true
  {{- with .Values.security }}
  {{- if not (kindIs "invalid" .runAsUser) }}
  runAsUser: {{ int64 .runAsUser }}
  {{- end }}
  {{- if not (kindIs "invalid" .runAsGroup) }}
  runAsGroup: {{ int64 .runAsGroup }}
  {{- end }}
  {{- if not (kindIs "invalid" .fsGroup) }}
  fsGroup: {{ int64 .fsGroup }}
  {{- end }}
  {{- end }}
  seccompProfile:
    type: RuntimeDefault
{{- end -}}

{{- define "outhaul.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end -}}

{{/* What every pod of the chart says of itself. A Service named outhaul-order would inject OUTHAUL_ORDER_PORT. */}}
{{- define "outhaul.pod" -}}
enableServiceLinks: false
{{- with .Values.images.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{ include "outhaul.podSecurity" . }}
{{- end -}}

{{/* Replicas apart where there are nodes for it, and none left Pending where there is only one. */}}
{{- define "outhaul.spread" -}}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "outhaul.selector" . | nindent 8 }}
{{- end -}}

{{- define "outhaul.logEnv" -}}
- name: OUTHAUL_LOG_LEVEL
  value: {{ .Values.log.level }}
- name: OUTHAUL_LOG_FORMAT
  value: {{ .Values.log.format }}
{{- end -}}

{{- define "outhaul.alertEnv" -}}
{{- with .Values.alerts }}
{{- if .webhookSecret.name }}
- name: OUTHAUL_ALERT_WEBHOOK_URL
  valueFrom:
    secretKeyRef:
      name: {{ .webhookSecret.name }}
      key: {{ .webhookSecret.key }}
{{- else if .webhookUrl }}
- name: OUTHAUL_ALERT_WEBHOOK_URL
  value: {{ .webhookUrl | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Takes (dict "name" "OUTHAUL_AMQP_URL" "secret" "order-broker" "key" "url"). */}}
{{- define "outhaul.secretEnv" -}}
- name: {{ .name }}
  valueFrom:
    secretKeyRef:
      name: {{ .secret }}
      key: {{ .key }}
{{- end -}}

{{- define "outhaul.settingsEnv" -}}
{{- range $name, $value := . }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end -}}

{{/* libpq's own variables: they hold for every URL that does not say otherwise. */}}
{{- define "outhaul.databaseTlsEnv" -}}
{{- with .Values.tls.database }}
{{- if .caSecret.name }}
- name: PGSSLMODE
  value: verify-full
- name: PGSSLROOTCERT
  value: /etc/outhaul/tls/database-ca/{{ .caSecret.key }}
{{- end }}
{{- if .clientSecret }}
- name: PGSSLCERT
  value: /etc/outhaul/tls/database-client/tls.crt
- name: PGSSLKEY
  value: /etc/outhaul/tls/database-client/tls.key
{{- end }}
{{- end }}
{{- end -}}

{{- define "outhaul.brokerTlsEnv" -}}
{{- with .Values.tls.broker }}
{{- if .caSecret.name }}
- name: OUTHAUL_AMQP_CA_FILE
  value: /etc/outhaul/tls/broker-ca/{{ .caSecret.key }}
{{- end }}
{{- if .clientSecret }}
- name: OUTHAUL_AMQP_CERT_FILE
  value: /etc/outhaul/tls/broker-client/tls.crt
- name: OUTHAUL_AMQP_KEY_FILE
  value: /etc/outhaul/tls/broker-client/tls.key
{{- end }}
{{- end }}
{{- end -}}

{{- define "outhaul.managementTlsEnv" -}}
{{- with .Values.tls.broker }}
{{- if .caSecret.name }}
- name: OUTHAUL_MANAGEMENT_CA_FILE
  value: /etc/outhaul/tls/broker-ca/{{ .caSecret.key }}
{{- end }}
{{- if .clientSecret }}
- name: OUTHAUL_MANAGEMENT_CERT_FILE
  value: /etc/outhaul/tls/broker-client/tls.crt
- name: OUTHAUL_MANAGEMENT_KEY_FILE
  value: /etc/outhaul/tls/broker-client/tls.key
{{- end }}
{{- end }}
{{- end -}}

{{/* Takes (dict "root" $ "parts" (list "database" "broker")). */}}
{{- define "outhaul.tlsMounts" -}}
{{- $root := .root -}}
{{- range .parts }}
{{- $tls := index $root.Values.tls . }}
{{- if $tls.caSecret.name }}
- name: {{ . }}-ca
  mountPath: /etc/outhaul/tls/{{ . }}-ca
  readOnly: true
{{- end }}
{{- if $tls.clientSecret }}
- name: {{ . }}-client
  mountPath: /etc/outhaul/tls/{{ . }}-client
  readOnly: true
{{- end }}
{{- end }}
{{- end -}}

{{/* libpq refuses a key that others may read; of root's own it takes one that the group may. */}}
{{- define "outhaul.tlsVolumes" -}}
{{- $root := .root -}}
{{- range .parts }}
{{- $tls := index $root.Values.tls . }}
{{- if $tls.caSecret.name }}
- name: {{ . }}-ca
  secret:
    secretName: {{ $tls.caSecret.name }}
    defaultMode: 0440
{{- end }}
{{- if $tls.clientSecret }}
- name: {{ . }}-client
  secret:
    secretName: {{ $tls.clientSecret }}
    defaultMode: 0440
{{- end }}
{{- end }}
{{- end -}}

{{- define "outhaul.tmpMount" -}}
- name: tmp
  mountPath: /tmp
{{- end -}}

{{- define "outhaul.tmpVolume" -}}
- name: tmp
  emptyDir:
    sizeLimit: 64Mi
{{- end -}}

{{/* The namespaces the operator watches, as a JSON list; empty when it watches the cluster. */}}
{{- define "outhaul.watched" -}}
{{- if .Values.operator.clusterWide -}}
{{- list | toJson -}}
{{- else -}}
{{- .Values.operator.namespaces | default (list .Release.Namespace) | uniq | sortAlpha | toJson -}}
{{- end -}}
{{- end -}}

{{/* Where the operator's Jobs are known to run: their ServiceAccount and NetworkPolicy are made there. A JSON list. */}}
{{- define "outhaul.jobNamespaces" -}}
{{- $watched := include "outhaul.watched" . | fromJsonArray -}}
{{- $watched | default (list .Release.Namespace) | toJson -}}
{{- end -}}

{{/* "true" when a part that is auto, true or false is on. Takes (dict "root" $ "enabled" value "api" "group/version"). */}}
{{- define "outhaul.isOn" -}}
{{- if eq (toString .enabled) "auto" -}}
{{- if .root.Capabilities.APIVersions.Has .api -}}true{{- end -}}
{{- else if .enabled -}}true{{- end -}}
{{- end -}}

{{- define "outhaul.orderOn" -}}
{{- if and .Values.functions.enabled .Values.functions.order.enabled -}}true{{- end -}}
{{- end -}}

{{- define "outhaul.waybillOn" -}}
{{- if and .Values.functions.enabled .Values.functions.waybill.enabled -}}true{{- end -}}
{{- end -}}

{{- define "outhaul.kedaOn" -}}
{{- if include "outhaul.waybillOn" . -}}
{{- include "outhaul.isOn" (dict "root" . "enabled" .Values.keda.enabled "api" "keda.sh/v1alpha1") -}}
{{- end -}}
{{- end -}}

{{/* "true" when alerts are posted somewhere. */}}
{{- define "outhaul.alertsOn" -}}
{{- if or .Values.alerts.webhookUrl .Values.alerts.webhookSecret.name -}}true{{- end -}}
{{- end -}}

{{/* "true" when no waybill function may run, as long as nothing waits. */}}
{{- define "outhaul.waybillRests" -}}
{{- if and (include "outhaul.kedaOn" .) (eq (int .Values.keda.minReplicas) 0) -}}true{{- end -}}
{{- end -}}

{{/* Whom `helm test` asks: a JSON list of {name, port: the Service's, listens: the pod's}. */}}
{{- define "outhaul.asked" -}}
{{- $asked := list -}}
{{- if include "outhaul.orderOn" . -}}
{{- $asked = append $asked (dict "name" "order" "port" .Values.functions.order.service.port "listens" 8080) -}}
{{- end -}}
{{- if and (include "outhaul.waybillOn" .) (not (include "outhaul.waybillRests" .)) -}}
{{- $asked = append $asked (dict "name" "waybill" "port" .Values.functions.waybill.service.port "listens" 8081) -}}
{{- end -}}
{{- if .Values.operator.enabled -}}
{{- $asked = append $asked (dict "name" "operator" "port" 8082 "listens" 8082) -}}
{{- end -}}
{{- $asked | toJson -}}
{{- end -}}
