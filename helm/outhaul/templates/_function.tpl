{{/* One function: ServiceAccount, Deployment, Service and PodDisruptionBudget. Takes (dict "root" $ "name" "order" "port" 8080
     "database" "OUTHAUL_ORDER_DATABASE_URL" "scaled" "true" where somebody else sets the replicas). */}}
{{- define "outhaul.function" -}}
{{- $root := .root -}}
{{- $f := index $root.Values.functions .name -}}
{{- $name := printf "%s-%s" (include "outhaul.fullname" $root) .name -}}
{{- $of := dict "root" $root "component" .name -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ $name }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "outhaul.labels" $of | nindent 4 }}
automountServiceAccountToken: false
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ $name }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "outhaul.labels" $of | nindent 4 }}
spec:
  {{- if not .scaled }}
  replicas: {{ $f.replicas }}
  {{- end }}
  strategy:
    type: RollingUpdate
    rollingUpdate: {maxUnavailable: 0, maxSurge: 1}
  selector:
    matchLabels:
      {{- include "outhaul.selector" $of | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "outhaul.selector" $of | nindent 8 }}
        app.kubernetes.io/part-of: outhaul
      {{- with $root.Values.podAnnotations }}
      annotations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
    spec:
      serviceAccountName: {{ $name }}
      automountServiceAccountToken: false
      terminationGracePeriodSeconds: {{ $f.terminationGracePeriodSeconds }}
      {{- include "outhaul.pod" $root | nindent 6 }}
      {{- include "outhaul.spread" $of | nindent 6 }}
      containers:
        - name: {{ .name }}
          image: {{ include "outhaul.image" (dict "root" $root "name" .name) }}
          imagePullPolicy: {{ $root.Values.images.pullPolicy }}
          {{- include "outhaul.containerSecurity" $root | nindent 10 }}
          env:
            {{- include "outhaul.secretEnv" (dict "name" .database "secret" $f.databaseSecret.name "key" $f.databaseSecret.key) | nindent 12 }}
            {{- include "outhaul.secretEnv" (dict "name" "OUTHAUL_AMQP_URL" "secret" $f.brokerSecret.name "key" $f.brokerSecret.key) | nindent 12 }}
            - name: OUTHAUL_DATABASE_POOL_SIZE
              value: {{ $f.databasePoolSize | quote }}
            - name: OUTHAUL_DRAIN_TIMEOUT
              value: {{ printf "%ds" (int $f.drainSeconds) }}
            - name: OUTHAUL_HTTP_HOST
              value: 0.0.0.0
            - name: OUTHAUL_HTTP_PORT
              value: {{ .port | quote }}
            {{- include "outhaul.logEnv" $root | nindent 12 }}
            {{- include "outhaul.alertEnv" $root | nindent 12 }}
            {{- include "outhaul.databaseTlsEnv" $root | nindent 12 }}
            {{- include "outhaul.brokerTlsEnv" $root | nindent 12 }}
            {{- include "outhaul.settingsEnv" $f.settings | nindent 12 }}
          ports:
            - name: http
              containerPort: {{ .port }}
          startupProbe:
            httpGet: {path: /healthz, port: http}
            periodSeconds: 1
            failureThreshold: 60
          livenessProbe:
            httpGet: {path: /healthz, port: http}
            periodSeconds: 10
            timeoutSeconds: 5
            failureThreshold: 3
          readinessProbe:
            httpGet: {path: /readyz, port: http}
            periodSeconds: 3
            timeoutSeconds: 5
            failureThreshold: 2
          resources:
            {{- toYaml $f.resources | nindent 12 }}
          volumeMounts:
            {{- include "outhaul.tmpMount" $root | nindent 12 }}
            {{- include "outhaul.tlsMounts" (dict "root" $root "parts" (list "database" "broker")) | nindent 12 }}
      volumes:
        {{- include "outhaul.tmpVolume" $root | nindent 8 }}
        {{- include "outhaul.tlsVolumes" (dict "root" $root "parts" (list "database" "broker")) | nindent 8 }}
---
apiVersion: v1
kind: Service
metadata:
  name: {{ $name }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "outhaul.labels" $of | nindent 4 }}
  {{- with $f.service.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  type: {{ $f.service.type }}
  selector:
    {{- include "outhaul.selector" $of | nindent 4 }}
  ports:
    - name: http
      port: {{ $f.service.port }}
      targetPort: http
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ $name }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "outhaul.labels" $of | nindent 4 }}
spec:
  maxUnavailable: {{ $f.maxUnavailable }}
  selector:
    matchLabels:
      {{- include "outhaul.selector" $of | nindent 6 }}
{{- end -}}
