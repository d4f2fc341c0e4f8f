"""What every part of the stack is given beside its settings."""

from __future__ import annotations

from dataclasses import dataclass

import pulumi
from pulumi_kubernetes import Provider

from outhaul_infra.settings import StackSettings


@dataclass(frozen=True, slots=True)
class Stack:
    """The settings, and options that follow from them.

    ``finding`` is the provider for what an earlier stack may have left to be found again; all else must not be there
    yet, or a stack would take what is another's and remove it in the end.
    """

    settings: StackSettings
    finding: Provider

    @property
    def app(self) -> str:
        """The namespace of functions and operator."""
        return self.settings.namespaces.app

    @property
    def data(self) -> str:
        """The namespace of RabbitMQ and PostgreSQL."""
        return self.settings.namespaces.data

    def password(self, key: str) -> str:
        """A secret by its key in the configuration; `settings_checks` has seen to it that it is there."""
        return self.settings.passwords[key]

    def timeouts(self) -> pulumi.CustomTimeouts:
        """Bounds on each wait."""
        seconds = f"{self.settings.wait_seconds}s"
        return pulumi.CustomTimeouts(create=seconds, update=seconds, delete=seconds)

    def options(self, parent: pulumi.Resource, *depends_on: pulumi.Resource) -> pulumi.ResourceOptions:
        """For what can be made again."""
        return pulumi.ResourceOptions(parent=parent, depends_on=list(depends_on), custom_timeouts=self.timeouts())

    def data_options(self, parent: pulumi.Resource, *depends_on: pulumi.Resource) -> pulumi.ResourceOptions:
        """For what holds data: protected where asked, never replaced for a volume's size, which is fixed once made."""
        return pulumi.ResourceOptions.merge(
            self.options(parent, *depends_on),
            pulumi.ResourceOptions(
                protect=self.settings.protect,
                ignore_changes=["spec.volumeClaimTemplates"],
            ),
        )

    def kept_options(self, parent: pulumi.Resource, *depends_on: pulumi.Resource) -> pulumi.ResourceOptions:
        """For what data would go with, or could not be used without: `destroy` leaves it where data is retained."""
        # The same provider whatever the setting: another one would be a replacement.
        return pulumi.ResourceOptions.merge(
            self.options(parent, *depends_on),
            pulumi.ResourceOptions(
                protect=self.settings.protect, retain_on_delete=self.settings.retain_data, provider=self.finding
            ),
        )
